"""Judging with a deadline: child processes that are killed and replaced when an answer takes too long."""

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from mel_ray.records.verdict import Outcome, Verdict
from mel_ray.rewards.extract import MAX_RESPONSE

START_SECONDS = 60.0


class JudgeProcess:
    """One child process. Waits for: a line from the child, at most `deadline` seconds; then kills it."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._child: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self.replaced = 0
        self._start()

    def _start(self) -> None:
        environment = {"PATH": os.environ.get("PATH", ""), "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._buffer = b""
        self._child = subprocess.Popen(
            [sys.executable, "-m", "mel_ray.rewards.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=environment,
            start_new_session=True,
        )

    def _read_line(self, seconds: float) -> bytes | None:
        """One line of the child, or None at the deadline or at its death."""
        assert self._child and self._child.stdout
        descriptor = self._child.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(seconds):
                    return None
                received = os.read(descriptor, 1 << 16)
                if not received:
                    return None
                self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def wait_ready(self) -> None:
        """Wait for the child to have imported what it needs.

        Raises:
            RuntimeError: it did not start.
        """
        if self._read_line(START_SECONDS) != b"ready":
            raise RuntimeError("the verifier's child process did not start; run: python -m mel_ray.rewards.child")

    def _replace(self) -> None:
        self.close()
        self.replaced += 1
        self._start()
        self.wait_ready()

    def judge(self, response: str, answer: str) -> Verdict:
        """Judge one response; never raises for what the response holds."""
        assert self._child and self._child.stdin
        request = json.dumps({"response": response[-MAX_RESPONSE:], "answer": answer}).encode() + b"\n"
        try:
            self._child.stdin.write(request)
            self._child.stdin.flush()
            line = self._read_line(self._deadline)
        except BrokenPipeError:
            line = None
        if line is None:
            died = self._child.poll() is not None
            self._replace()
            if died:
                return Verdict(Outcome.ERROR, reason="the judging process died")
            return Verdict(Outcome.TIMEOUT, reason=f"no verdict within {self._deadline:g} s")
        reply = json.loads(line)
        return Verdict(Outcome(reply["outcome"]), reply["extracted"], reply["reason"])

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for stream in (self._child.stdin, self._child.stdout):
                if stream is not None:
                    try:
                        stream.close()
                    except BrokenPipeError:
                        pass
            self._child = None


class Verifier:
    """Judges responses one by one in a killable child; a context manager."""

    def __init__(self, deadline: float = 5.0) -> None:
        self._process = JudgeProcess(deadline)
        self._is_ready = False

    def judge(self, response: str, answer: str) -> Verdict:
        if not self._is_ready:
            self._process.wait_ready()
            self._is_ready = True
        return self._process.judge(response, answer)

    def judge_all(self, responses: Sequence[str] | Iterable[str], answer: str) -> tuple[Verdict, ...]:
        return tuple(self.judge(response, answer) for response in responses)

    @property
    def replaced(self) -> int:
        """How many child processes were killed and replaced so far."""
        return self._process.replaced

    def close(self) -> None:
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
