"""Judging with a deadline: child processes that are killed and replaced when an answer takes too long."""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

from mel_ray.records.question import Question, Truth
from mel_ray.records.verdict import Outcome, Verdict
from mel_ray.rewards.extract import MAX_RESPONSE

START_SECONDS = 60.0
SELF_TEST = (("so \\boxed{12}", "12", "correct"), ("\\boxed{\\frac{1}{2}}", "0.5", "correct"),
             ("\\boxed{(1, 2)}", "(2, 1)", "wrong"), ("twelve", "12", "no_answer"))  # fmt: skip


@dataclass(frozen=True, slots=True)
class VerifierSettings:
    """`deadline`: seconds per response; `rules`: see rewards/registry.py; `function`: see rewards/functions.py."""

    deadline: float = 5.0
    rules: tuple[str, ...] = ("boxed",)
    function: str | None = None


class JudgeProcess:
    """One child. Waits for: a line from it, at most for a deadline; then it and its children are killed."""

    def __init__(self, settings: VerifierSettings) -> None:
        self._settings = settings
        self._buffer = b""
        self.replaced = 0
        self._start()

    def _start(self) -> None:
        environment = {"PATH": os.environ.get("PATH", ""), "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        argument = json.dumps({"rules": list(self._settings.rules), "function": self._settings.function})
        self._buffer = b""
        self._child = subprocess.Popen(
            [sys.executable, "-m", "mel_ray.rewards.child", argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if self._settings.function else subprocess.DEVNULL,
            cwd=tempfile.mkdtemp(prefix="mel_ray_judge_"),  # the child removes it
            env=environment,
            start_new_session=True,
        )

    def _read_line(self, seconds: float) -> bytes | None:
        """One line of the child, or None at the deadline or at its death."""
        assert self._child.stdout
        descriptor, until = self._child.stdout.fileno(), time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, until - time.monotonic())):
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
            raise RuntimeError("the judging process did not start; run `mel score` to see why")

    def ask(self, request: dict[str, Any], seconds: float) -> list[dict[str, Any]] | str:
        """The child's verdicts; or "timeout" or "died", and then the child has been replaced."""
        assert self._child.stdin
        try:
            self._child.stdin.write(json.dumps(request, default=str).encode() + b"\n")
            self._child.stdin.flush()
            line = self._read_line(seconds)
        except BrokenPipeError:
            line = None
        if line is not None:
            return json.loads(line)
        has_died = self._child.poll() is not None
        self._kill()
        self.replaced += 1
        self._start()
        self.wait_ready()
        return "died" if has_died else "timeout"

    def _kill(self) -> None:
        try:
            os.killpg(self._child.pid, signal.SIGKILL)  # with whatever a reward function started
        except ProcessLookupError:
            pass
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout):
            try:
                if stream is not None:
                    stream.close()
            except BrokenPipeError:
                pass

    def close(self) -> None:
        self._kill()


class Verifier:
    """Judges responses in a killable child; a context manager."""

    def __init__(self, settings: VerifierSettings | None = None) -> None:
        self._settings = settings or VerifierSettings()
        self._process = JudgeProcess(self._settings)
        self._is_ready = False

    def judge_all(self, responses: Sequence[str], question: Question) -> tuple[Verdict, ...]:
        """One verdict per response to one question; never raises for what a response holds.

        The built-in rules judge one response at a time; a custom function gets all of them in one call, with the
        dataset's row.
        """
        if not self._is_ready:
            self._process.wait_ready()
            self._is_ready = True
        asked = {"truth": asdict(question.truth), "question": question.text}
        if not self._settings.function:
            return tuple(verdict for response in responses for verdict in self._judge([response], asked))
        return tuple(self._judge(responses, asked | {"columns": dict(question.columns)}))

    def _judge(self, responses: Sequence[str], asked: Mapping[str, Any]) -> list[Verdict]:
        seconds = self._settings.deadline * max(1, len(responses))
        reply = self._process.ask({"responses": [text[-MAX_RESPONSE:] for text in responses], **asked}, seconds)
        if reply == "timeout":
            reason = f"no verdict within {seconds:g} s"
            return [Verdict(Outcome.TIMEOUT, text[-200:], reason) for text in responses]
        if reply == "died":
            return [Verdict(Outcome.ERROR, text[-200:], "the judging process died") for text in responses]
        assert not isinstance(reply, str)
        return [Verdict(Outcome(one["outcome"]), one["extracted"], one["reason"], one.get("score")) for one in reply]

    def judge(self, response: str, answer: str, tolerance: float = 0.0) -> Verdict:
        return self.judge_all([response], Question("", Truth(answer, tolerance=tolerance)))[0]

    def self_test(self) -> None:
        """Judge a few known answers with the built-in rules.

        Raises:
            RuntimeError: a known answer is judged wrongly: the installation is broken.
        """
        if self._settings.function or "boxed" not in self._settings.rules:
            self._process.wait_ready()
            self._is_ready = True
            return
        for response, answer, expected in SELF_TEST:
            verdict = self.judge(response, answer)
            if verdict.outcome != expected and not (expected == "no_answer" and len(self._settings.rules) > 1):
                raise RuntimeError(
                    f"the verifier's self-test failed: {response!r} against {answer!r} is {verdict.outcome}"
                )

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
