"""A reward made of named parts: `reward.parts` weights them, and the reward is their sum.

A part's value comes from its own function or pattern, else from what `reward.function` returned under its name, else
from the built-in part of that name.
"""

from collections.abc import Mapping
from dataclasses import replace

from mel_ray.config.schema import RewardPart
from mel_ray.records.verdict import Verdict
from mel_ray.rewards.functions import CORRECT

FORMAT, LENGTH = "format", "length"
BUILT_IN = {
    CORRECT: "1 for a correct answer, 0 for any other",
    FORMAT: "1 if the rules of reward.extract find an answer, else 0",
    LENGTH: "0, and over the last fifth of rollout.max_tokens falling to -1",
}
OVERLONG_ZONE = 0.2  # 4096 of 20480 tokens (DAPO, arXiv 2503.14476)

Value = float | Verdict  # a verdict says why there is no value


def judge_of(function: str | None, parts: Mapping[str, RewardPart]) -> str | None:
    """The function that decides what is correct; None for the built-in rules."""
    part = parts.get(CORRECT)
    return part.function if part and part.function else function


def length_value(tokens: int | None, max_tokens: int) -> float:
    """DAPO's soft penalty on overlong answers (Eq. 13): 0 before the zone, -1 at `max_tokens` and beyond."""
    zone = OVERLONG_ZONE * max_tokens
    if tokens is None or not zone:
        return 0.0
    return -min(1.0, max(0.0, (tokens - (max_tokens - zone)) / zone))


def mixed(verdict: Verdict, parts: Mapping[str, RewardPart], values: Mapping[str, Value]) -> Verdict:
    """A verdict with the weighted sum of `parts` as its score; `values` has one for each.

    A part without value makes the verdict that part's failure: no reward is made of what is missing. What the judging
    function named and no weight stands for is kept with the parts, but not added.
    """
    if verdict.has_failed:
        return verdict
    numbers = {name: value for name, value in values.items() if not isinstance(value, Verdict)}
    for value in values.values():
        if isinstance(value, Verdict):
            return value
    score = sum(part.weight * numbers[name] for name, part in parts.items())
    return replace(verdict, score=score, parts={**verdict.parts, **numbers})


def unmixed(verdict: Verdict) -> Verdict:
    """A verdict where no parts are configured: they are kept if there are any besides correctness."""
    return verdict if len(verdict.parts) > 1 else replace(verdict, parts={})
