"""launch/cluster.sh for real: beside others that hold Ray's ports, in the background of a script, and ended cleanly."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
RAYS_OWN = (6379, 8265, 10001, 52365)  # head, dashboard, client and the dashboard's agent


def taken(port):
    one = socket.socket()
    try:
        one.bind(("", port))
        one.listen()
    except OSError:
        pass  # someone has it already, which is as good
    return one


def announced(process, seconds=60):
    """What the script says, up to the command for the other terminal."""
    lines, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        lines.append(process.stdout.readline())
        if "job submit" in lines[-1]:
            return "".join(lines)
    raise AssertionError("".join(lines))


def test_a_head_beside_another_ray_takes_jobs_and_ends_with_all_it_started(tmp_path):
    scratch = tempfile.mkdtemp(prefix="mel_", dir="/tmp")  # the paths of sockets must stay short
    environment = os.environ | {
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"), "RAY_HEAD_OPTIONS": f"--num-cpus 1 --temp-dir {scratch}",
    }  # fmt: skip
    environment.pop("RAY_ADDRESS", None)
    holders = [taken(port) for port in RAYS_OWN]
    head = subprocess.Popen(
        ["bash", str(ROOT / "launch" / "cluster.sh"), str(BIN.parent)], cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as a shell starts background jobs
    )  # fmt: skip
    children = []
    try:
        address = re.search(r"RAY_API_SERVER_ADDRESS=(\S+)", announced(head))[1]
        submit = [str(BIN / "ray"), "job", "submit", "--address", address, "--", sys.executable, "-c", "print(6 * 7)"]
        client = environment | {"RAY_AUTH_MODE": "token"}
        for _ in range(30):  # the dashboard needs a moment
            done = subprocess.run(submit, env=client, capture_output=True, text=True, timeout=120, check=False)
            if done.returncode == 0:
                break
            time.sleep(1)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "\n42\n" in done.stdout
        children = psutil.Process(head.pid).children(recursive=True)
        assert children
        head.send_signal(signal.SIGINT)
        head.wait(60)
        _, left = psutil.wait_procs(children, timeout=20)
        assert left == []
    finally:
        for holder in holders:
            holder.close()
        for process in [*children, head]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        shutil.rmtree(scratch, ignore_errors=True)
