"""A child process that judges, killed and replaced when it takes too long (rewards/child.py, function_child.py)."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from mel_ray.records.incident import BrokenActor

START_SECONDS = 60.0


class JudgeProcess:
    """One child. Waits for: a line from it, at most for a deadline; then it and its children are killed.

    It runs custom `functions`, whose output is shown; without any, it judges by the built-in rules.
    """

    def __init__(self, functions: Sequence[str] = ()) -> None:
        self._functions = list(functions)
        self._is_ready = False
        self.replaced = 0
        self._start()

    def _start(self) -> None:
        environment = {"PATH": os.environ.get("PATH", ""), "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._buffer = bytearray()
        child = "mel_ray.rewards.function_child" if self._functions else "mel_ray.rewards.child"
        self._folder = tempfile.mkdtemp(prefix="mel_ray_judge_")  # the child removes it once it has started
        self._child = subprocess.Popen(
            [sys.executable, "-m", child, *self._functions],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if self._functions else subprocess.DEVNULL,
            cwd=self._folder,
            env=environment,
            start_new_session=True,
        )

    def _read_line(self, seconds: float) -> bytes | None:
        """One line of the child; None at the deadline, empty at its death."""
        assert self._child.stdout
        descriptor, until = self._child.stdout.fileno(), time.monotonic() + seconds
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while b"\n" not in self._buffer:
            if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                return None
            received = os.read(descriptor, 1 << 16)
            if not received:
                return b""
            self._buffer += received
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        return line

    def wait_ready(self) -> None:
        """Wait for the child to have imported what it needs.

        Raises:
            BrokenActor: it did not start.
        """
        if self._is_ready:
            return
        if self._read_line(START_SECONDS) != b"ready":
            raise BrokenActor("the judging process did not start; run `mel score` to see why")
        self._is_ready = True

    def ask(self, request: dict[str, Any], seconds: float) -> list[dict[str, Any]] | str:
        """The child's results; or "timeout" or "died", and then the child has been replaced."""
        self.wait_ready()
        assert self._child.stdin
        try:
            self._child.stdin.write(json.dumps(request, default=str).encode() + b"\n")
            self._child.stdin.flush()
            line = self._read_line(seconds)
        except BrokenPipeError:
            line = b""
        if line:
            return json.loads(line)
        self._kill()
        self.replaced += 1
        self._is_ready = False
        self._start()
        self.wait_ready()
        return "timeout" if line is None else "died"

    def _kill(self) -> None:
        try:
            os.killpg(self._child.pid, signal.SIGKILL)  # with whatever a reward function started
        except ProcessLookupError:
            pass
        self._child.wait()
        with suppress(OSError):
            os.rmdir(self._folder)
        for stream in (self._child.stdin, self._child.stdout):
            try:
                if stream is not None:
                    stream.close()
            except BrokenPipeError:
                pass

    def close(self) -> None:
        self._kill()
