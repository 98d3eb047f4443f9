"""The final answer in a response, by configured rules."""

from collections.abc import Sequence

from mel_ray.rewards.registry import RULES


def extract_answer(response: str, rules: Sequence[str] = ("boxed",)) -> str | None:
    """The answer by the first rule of `RULES` that finds one, or None."""
    return next((found for rule in rules if (found := RULES[rule](response))), None)
