"""Custom rewards, named `package.module:function` (docs/rewards.md).

A function gets the responses to one question; it may be async. As `reward.function` it returns one Judgement each, in
order, and decides what is correct; as the function of another part it may return plain numbers. It runs in the
verifier's killable child processes, under a deadline per response.
"""

import asyncio
import importlib
import inspect
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CORRECT = "correct"  # the part that says how right the answer is


@dataclass(frozen=True, slots=True)
class Response:
    """What is judged: the policy's `response` to `question`, the dataset's `answer`, and the dataset's whole row.

    `columns` maps column names to values; what JSON does not know (dates, bytes) comes as text. `tokens` is the
    response's length, None where it was not sampled here (`mel score`).
    """

    question: str
    response: str
    answer: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """One response's judgement.

    `is_correct` is what meta-experience contrasts (Eq. 1). `reward` is what the advantage is made of; by default the
    sum of `parts`, named values of which `correct` is one, 1.0 or 0.0 after `is_correct` unless it is given. Where
    `reward.parts` is configured, it weights the parts, and a `reward` without parts is the value of `correct`.
    """

    is_correct: bool
    reward: float | None = None
    extracted: str | None = None
    reason: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def score(self) -> float:
        if self.reward is not None:
            return float(self.reward)
        return sum(float(value) for value in ({CORRECT: self.is_correct} | dict(self.parts)).values())

    @property
    def valued_parts(self) -> dict[str, float]:
        """Every part with its value."""
        correct = self.is_correct if self.reward is None or self.parts else self.reward
        return {name: float(value) for name, value in ({CORRECT: correct} | dict(self.parts)).items()}


Judgements = Sequence[Judgement]
RewardFunction = Callable[[Sequence[Response]], Judgements | Awaitable[Judgements]]
Scores = Sequence[float | Judgement]
PartFunction = Callable[[Sequence[Response]], Scores | Awaitable[Scores]]


def load_function(path: str) -> RewardFunction:
    """The function named `package.module:function`.

    Raises:
        ValueError: a sentence that says what is wrong with the name.
    """
    module_name, colon, name = path.partition(":")
    if not colon or not module_name or not name:
        raise ValueError("a reward function is named package.module:function")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, ValueError) as error:
        raise ValueError(f"the module '{module_name}' cannot be imported ({error})") from error
    except AttributeError as error:
        raise ValueError(f"the module '{module_name}' has no '{name}'") from error
    except Exception as error:
        raise ValueError(f"the module '{module_name}' fails to import ({type(error).__name__}: {error})") from error
    if not callable(function):
        raise ValueError(f"'{path}' is not a function")
    return function


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


def _results(function: RewardFunction | PartFunction, responses: Sequence[Response]) -> list[Any]:
    """What it returns, awaited if it is async, as a list of the right length."""
    result = function(responses)
    if inspect.isawaitable(result):
        result = asyncio.run(_awaited(result))
    if result is None or isinstance(result, str | bytes | Mapping):
        raise ValueError(f"it returned {type(result).__name__} instead of a list of {len(responses)}")
    results = list(result)
    if len(results) != len(responses):
        raise ValueError(f"it returned {len(results)} results for {len(responses)} responses; it must return one each")
    return results


def call_function(function: RewardFunction, responses: Sequence[Response]) -> list[Judgement]:
    """The judgements of a function that decides what is correct.

    Raises:
        ValueError: it returned another number of judgements than it got responses, or something else.
    """
    results = _results(function, responses)
    if wrong := [one for one in results if not isinstance(one, Judgement)]:
        raise ValueError(
            f"it must return Judgements, because it decides what is correct; not {type(wrong[0]).__name__}"
        )
    return results


def call_part(function: PartFunction, responses: Sequence[Response]) -> list[float]:
    """The values of a part: plain numbers, or the scores of judgements.

    Raises:
        ValueError, TypeError: it returned another number of values than it got responses, or something else.
    """
    results = _results(function, responses)
    return [one.score if isinstance(one, Judgement) else _number(one) for one in results]


def _number(value: Any) -> float:
    if isinstance(value, str | bytes):
        raise TypeError(f"it returned the text {value!r:.60} instead of a number")
    return float(value)


def flaw_of(judgement: Judgement) -> str:
    """What makes a judgement unusable, in a few words; empty if nothing does."""
    if judgement.is_correct not in (True, False):
        return f"is_correct is {judgement.is_correct!r:.60}, neither true nor false"
    values = {"the reward": judgement.score} | {f"the part '{name}'": v for name, v in judgement.valued_parts.items()}
    if unnamed := [name for name in judgement.parts if not is_part_name(name)]:
        return f"a part cannot be called {unnamed[0]!r:.60}: a name has letters, digits and underscores"
    return next((f"{what} is {value}" for what, value in values.items() if not math.isfinite(value)), "")


def is_part_name(name: str) -> bool:
    """Whether a part may have this name: it stands in metrics and columns."""
    return isinstance(name, str) and name.isascii() and name.isidentifier() and len(name) <= 40
