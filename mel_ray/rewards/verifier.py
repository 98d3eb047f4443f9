"""Judging with a deadline: the verdict on each response, and the parts of its reward.

The built-in rules and custom functions run in child processes of their own, each started only if it is needed: the
rules' child forbids side effects that a function may need.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from mel_ray.config.schema import RewardPart
from mel_ray.records.question import Question, Truth
from mel_ray.records.verdict import Outcome, Verdict
from mel_ray.rewards.extract import MAX_RESPONSE
from mel_ray.rewards.functions import CORRECT
from mel_ray.rewards.judge_process import JudgeProcess
from mel_ray.rewards.mixture import FORMAT, LENGTH, Value, judge_of, length_value, mixed, unmixed

SELF_TEST = (("so \\boxed{12}", "12", "correct"), ("\\boxed{\\frac{1}{2}}", "0.5", "correct"),
             ("\\boxed{(1, 2)}", "(2, 1)", "wrong"), ("twelve", "12", "no_answer"))  # fmt: skip
Result = dict[str, Any] | Verdict  # a verdict says why there is no result


@dataclass(frozen=True, slots=True)
class VerifierSettings:
    """`deadline`: seconds per response; `rules`: see rewards/registry.py; `function`: see rewards/functions.py;
    `parts`: see rewards/mixture.py; `max_tokens`: what the built-in part `length` measures against."""

    deadline: float = 5.0
    rules: tuple[str, ...] = ("boxed",)
    function: str | None = None
    parts: Mapping[str, RewardPart] = field(default_factory=dict)
    max_tokens: int = 0

    @property
    def judge(self) -> str | None:
        """The function that decides what is correct; None for the built-in rules."""
        return judge_of(self.function, self.parts)

    @property
    def functions(self) -> tuple[str, ...]:
        """All custom functions, each once."""
        named = (self.judge, *(part.function for part in self.parts.values()))
        return tuple(dict.fromkeys(name for name in named if name))

    @property
    def uses_rules(self) -> bool:
        """Whether anything is judged by the built-in rules or patterns."""
        return self.judge is None or any(
            part.pattern is not None or name == FORMAT for name, part in self.parts.items()
        )


class Verifier:
    """Judges responses in killable children; a context manager."""

    def __init__(self, settings: VerifierSettings | None = None) -> None:
        self._settings = settings = settings or VerifierSettings()
        self._process = JudgeProcess() if settings.uses_rules else None
        self._functions = JudgeProcess(settings.functions) if settings.functions else None

    def judge_all(
        self,
        responses: Sequence[str],
        question: Question,
        tokens: Sequence[int] | None = None,
        rules: Sequence[str] | None = None,
    ) -> tuple[Verdict, ...]:
        """One verdict per response to one question; never raises for what a response holds.

        The built-in rules judge one response at a time; a custom function gets all of them in one call, with the
        dataset's row. `tokens` are the responses' lengths, where they are known; `rules` replace those of the settings.
        """
        asked = {
            "truth": _message(question.truth),
            "question": question.text,
            "tokens": list(tokens) if tokens else None,
            "columns": dict(question.columns) if self._settings.functions else {},
        }
        judge, parts = self._settings.judge, self._settings.parts
        if judge is None:
            judged = [self._by_rules("judge", text, question.truth, rules) for text in responses]
        else:
            judged = [
                result if isinstance(result, Verdict) else _verdict(result)
                for result in self._by_function("judge", judge, responses, asked)
            ]
        if not parts:
            return tuple(map(unmixed, judged))
        columns = [self._values(name, judged, responses, asked) for name in parts]
        return tuple(
            mixed(verdict, parts, dict(zip(parts, values, strict=True)))
            for verdict, values in zip(judged, zip(*columns, strict=True), strict=True)
        )

    def judge(self, response: str, answer: str, tolerance: float = 0.0) -> Verdict:
        return self.judge_all([response], Question("", Truth(answer, tolerance=tolerance)))[0]

    def judge_directly(self, response: str, truth: Truth) -> Verdict:
        """Math-Verify alone on the whole response, under the same deadline."""
        return self._by_rules("judge directly", response, truth)

    # -- the parts of the reward

    def _values(
        self, name: str, judged: Sequence[Verdict], responses: Sequence[str], asked: Mapping[str, Any]
    ) -> Sequence[Value]:
        """The value of one part for each response."""
        part, settings = self._settings.parts[name], self._settings
        if part.pattern is not None:
            return [self._value("match", name, text, pattern=part.pattern) for text in responses]
        if part.function and name != CORRECT:
            results = self._by_function("score", part.function, responses, asked)
            return [result if isinstance(result, Verdict) else result["value"] for result in results]
        if name == CORRECT:
            return [verdict.parts.get(name, float(verdict.is_correct)) for verdict in judged]
        if name == LENGTH:
            lengths = asked["tokens"] or [None] * len(responses)
            own: Sequence[Value] = [length_value(length, settings.max_tokens) for length in lengths]
        elif name == FORMAT and settings.judge is None:
            own = [float(verdict.outcome is not Outcome.NO_ANSWER) for verdict in judged]
        elif name == FORMAT:
            own = [
                0.0 if name in verdict.parts else self._value("extract", name, text)
                for verdict, text in zip(judged, responses, strict=True)
            ]
        else:
            missing = Verdict(Outcome.ERROR, None, f"{settings.judge or 'the verifier'} returned no part '{name}'")
            own = [missing] * len(responses)
        return [verdict.parts.get(name, value) for verdict, value in zip(judged, own, strict=True)]

    # -- asking the children

    def _by_rules(self, task: str, text: str, truth: Truth, rules: Sequence[str] | None = None) -> Verdict:
        rules = rules or self._settings.rules
        (result,) = self._ask_rules(task, text, "", truth=_message(truth), rules=rules)
        return result if isinstance(result, Verdict) else _verdict(result)

    def _value(self, task: str, name: str, text: str, **asked: Any) -> Value:
        (result,) = self._ask_rules(task, text, f"the part '{name}': ", rules=self._settings.rules, **asked)
        return result if isinstance(result, Verdict) else result["value"]

    def _ask_rules(self, task: str, text: str, who: str, **asked: Any) -> list[Result]:
        if self._process is None:
            self._process = JudgeProcess()
        return self._ask(self._process, {"task": task, **asked}, [text], who)

    def _by_function(
        self, task: str, function: str, responses: Sequence[str], asked: Mapping[str, Any]
    ) -> list[Result]:
        assert self._functions
        return self._ask(self._functions, {"task": task, "function": function, **asked}, responses, f"{function}: ")

    def _ask(
        self, process: JudgeProcess, request: Mapping[str, Any], responses: Sequence[str], who: str
    ) -> list[Result]:
        """A child's result for each response, or the verdict that there is none."""
        seconds = self._settings.deadline * max(1, len(responses))
        whole = {**request, "responses": [text[-MAX_RESPONSE:] for text in responses]}
        reply = process.ask(whole, seconds)
        if reply == "died":  # by accident, perhaps: a response that ends the child does so again
            reply = process.ask(whole, seconds)
        if reply == "timeout":
            return [
                Verdict(Outcome.TIMEOUT, text[-200:], f"{who}no verdict within {seconds:g} s") for text in responses
            ]
        if reply == "died":
            return [Verdict(Outcome.ERROR, text[-200:], f"{who}the judging process died") for text in responses]
        assert not isinstance(reply, str)
        return [_verdict(result) if result.get("outcome") == Outcome.ERROR else result for result in reply]

    # -- the children themselves

    def self_test(self) -> None:
        """Start all children, and judge a few known answers with the built-in rules.

        Raises:
            RuntimeError: a known answer is judged wrongly: the installation is broken.
        """
        for process in self._processes:
            process.wait_ready()
        if self._settings.judge or "boxed" not in self._settings.rules:
            return
        for response, answer, expected in SELF_TEST:
            verdict = self._by_rules("judge", response, Truth(answer))
            if verdict.outcome != expected and not (expected == "no_answer" and len(self._settings.rules) > 1):
                raise RuntimeError(
                    f"the verifier's self-test failed: {response!r} against {answer!r} is {verdict.outcome}"
                )

    @property
    def _processes(self) -> list[JudgeProcess]:
        return [process for process in (self._process, self._functions) if process]

    @property
    def replaced(self) -> int:
        """How many child processes were killed and replaced so far."""
        return sum(process.replaced for process in self._processes)

    def close(self) -> None:
        for process in self._processes:
            process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _verdict(result: Mapping[str, Any]) -> Verdict:
    return Verdict(
        Outcome(result["outcome"]), result["extracted"], result["reason"], result.get("score"), result.get("parts", {})
    )


def _message(truth: Truth) -> dict[str, Any]:
    """A truth as a child gets it, made without the deep copy of `asdict`."""
    return {name: getattr(truth, name) for name in Truth.__slots__}
