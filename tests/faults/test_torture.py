"""A run whose processes die at random moments, again and again, with a checkpoint after every step on a small disk."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from mel_ray.records.ledger import Ledger
from mel_ray.run.checkpoints import complete_checkpoints
from tests.pools.processes import processes_using
from tests.pools.test_end_to_end import ENVIRONMENT, NO_EVALUATION, STATEFUL, steps_of, wait_until

pytestmark = pytest.mark.slow
KILLS = 30
LATEST = 25.0  # seconds after the last kill, or start
DISK = "160m"
CONFIGURED = ["checkpoint.every=1", "rollout.prompts_per_step=3", "observe.trajectories=1.0", "run.resume=auto",
              "driver.capacity=1", *NO_EVALUATION, *STATEFUL]  # fmt: skip


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A small tmpfs."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"needs to mount a tmpfs: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


def start(folder: Path, steps: int) -> subprocess.Popen:
    words = [f"run.dir={folder.parent}", f"run.name={folder.name}", f"run.steps={steps}", *CONFIGURED]
    with (folder.parent / "terminal.log").open("a") as log:
        command = [sys.executable, "-m", "mel_ray.main", *words]
        return subprocess.Popen(command, stdout=log, stderr=log, env=ENVIRONMENT, start_new_session=True)


def anyone(run: subprocess.Popen, chance: random.Random) -> psutil.Process | None:
    """The driver every other time, else any process of the run, those of Ray too."""
    try:
        driver = psutil.Process(run.pid)
        others = driver.children(recursive=True)
        return driver if chance.random() < 0.5 or not others else chance.choice(others)
    except psutil.NoSuchProcess:
        return None


def test_thirty_deaths(disk):
    folder, chance = disk / "run", random.Random(20)
    killed, ends = Counter[str](), Counter[int]()
    run = start(folder, 10_000)
    try:
        while sum(killed.values()) < KILLS:
            try:
                run.wait(chance.uniform(0.5, LATEST))
            except subprocess.TimeoutExpired:
                if victim := anyone(run, chance):
                    killed[(victim.name() if victim.pid != run.pid else "driver").split("::")[-1]] += 1
                    victim.kill()
                    time.sleep(1)
            if run.poll() is not None:
                ends[run.returncode] += 1
                wait_until(lambda: processes_using(folder) == [], seconds=30)
                run = start(folder, 10_000)
        before = len(steps_of(folder))
        wait_until(lambda: len(steps_of(folder)) >= before + 2, seconds=240)
        run.send_signal(signal.SIGTERM)
        assert run.wait(120) == 75
        done = steps_of(folder)[-1]["step"]
        run = start(folder, done + 2)
        assert run.wait(240) == 0, (disk / "terminal.log").read_text()[-3000:]
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    print(f"killed {dict(killed)}; the run ended {dict(ends)}; {done + 2} steps")
    terminal = (disk / "terminal.log").read_text()
    assert "Traceback" not in terminal
    assert set(ends) <= {-9, 1}
    rows = steps_of(folder)
    assert [row["step"] for row in rows] == list(range(1, done + 3))
    assert all(Ledger.from_dict(row["ledger"]).is_balanced for row in rows)
    assert json.loads((folder / "summary.json").read_text())["status"] == "done"
    assert (folder / "checkpoints" / "latest").read_text() == complete_checkpoints(folder / "checkpoints")[-1].name
    for kind in ("experiences", "trajectories"):
        files = sorted((folder / kind).glob("*.parquet"))
        assert [set(pq.read_table(file)["step"].to_pylist()) for file in files] == [
            {int(file.stem.removeprefix("step-"))} for file in files
        ]
    stored = {int(file.stem.removeprefix("step-")) for file in (folder / "trajectories").glob("*.parquet")}
    assert stored == {row["step"] for row in rows}
    wait_until(lambda: processes_using(folder) == [], seconds=30)
