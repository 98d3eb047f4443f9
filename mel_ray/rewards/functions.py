"""Custom rewards: `reward.function=package.module:function` (docs/rewards.md).

A function gets the responses to one question and returns one Judgement each, in order; it may be async. It runs in
the verifier's killable child processes, under the same deadline per response.
"""

import asyncio
import importlib
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Response:
    """What is judged: the policy's `response` to `question`, the dataset's `answer`, and the dataset's whole row.

    `columns` maps column names to values; what JSON does not know (dates, bytes) comes as text.
    """

    question: str
    response: str
    answer: str
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judgement:
    """`is_correct` is what meta-experience contrasts (Eq. 1); `reward` is what the advantage is made of, by
    default 1.0 or 0.0 after `is_correct`."""

    is_correct: bool
    reward: float | None = None
    extracted: str | None = None
    reason: str = ""

    @property
    def score(self) -> float:
        return float(self.is_correct) if self.reward is None else float(self.reward)


RewardFunction = Callable[[Sequence[Response]], Sequence[Judgement] | Awaitable[Sequence[Judgement]]]


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
    except ImportError as error:
        raise ValueError(f"the module '{module_name}' cannot be imported ({error})") from error
    except AttributeError as error:
        raise ValueError(f"the module '{module_name}' has no '{name}'") from error
    if not callable(function):
        raise ValueError(f"'{path}' is not a function")
    return function


async def _awaited(result: Awaitable[Sequence[Judgement]]) -> Sequence[Judgement]:
    return await result


def call_function(function: RewardFunction, responses: Sequence[Response]) -> list[Judgement]:
    """Call it, awaiting it if it is async.

    Raises:
        ValueError: it returned another number of judgements than it got responses, or something else.
    """
    result = function(responses)
    judgements = list(asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result)
    if len(judgements) != len(responses) or not all(isinstance(one, Judgement) for one in judgements):
        raise ValueError(f"the reward function must return {len(responses)} Judgements, one per response")
    return judgements
