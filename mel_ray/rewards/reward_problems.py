"""What can be known to be wrong with `reward` before anything starts, each with its remedy."""

import math
import re
from collections.abc import Iterator

from mel_ray.config.schema import Config, RewardPart
from mel_ray.records.problem import Problem
from mel_ray.rewards.functions import CORRECT, is_part_name, load_function
from mel_ray.rewards.mixture import BUILT_IN, LENGTH

SEE = "see docs/rewards.md"


def find_reward_problems(config: Config) -> list[Problem]:
    """Problems of the reward's functions and parts; functions are imported to see whether they can be."""
    problems = [*_function("reward.function", config.reward.function), *_mixture(config)]
    for name, part in config.reward.parts.items():
        problems += _part(config, name, part)
    return problems


def _function(key: str, path: str | None) -> Iterator[Problem]:
    if path is None:
        return
    try:
        load_function(path)
    except ValueError as error:
        yield Problem(key, path, str(error), SEE)


def _mixture(config: Config) -> Iterator[Problem]:
    """Problems of the parts as a whole."""
    parts, algorithm = config.reward.parts, config.algorithm
    if not parts:
        return
    correct = parts.get(CORRECT)
    if correct is None:
        why = f"no part rewards correctness; there are: {', '.join(parts)}"
        yield Problem("reward.parts", None, why, f"add {CORRECT}: 1, or {CORRECT}: 0 if you mean to leave it out")
    elif correct.pattern is not None:
        why = "a pattern cannot say whether an answer is correct"
        yield Problem(f"reward.parts.{CORRECT}.pattern", correct.pattern, why, "give the pattern a part of its own")
    elif correct.function and config.reward.function not in (None, correct.function):
        why = f"reward.function={config.reward.function} decides what is correct, too"
        yield Problem(f"reward.parts.{CORRECT}.function", correct.function, why, "name only one of them")
    if all(part.weight == 0 for part in parts.values()):
        yield Problem("reward.parts", None, "every weight is 0, so that every reward is 0", f"use {CORRECT}: 1")
    if algorithm.advantage == "correct_only":
        why = "rejection sampling looks at correctness alone, so parts would have no effect"
        yield Problem("reward.parts", None, why, "leave reward.parts out, or choose another algorithm")
    length = parts.get(LENGTH)
    is_built_in = length is not None and not (length.function or length.pattern or config.reward.function)
    if is_built_in and algorithm.overlong_zone:
        why = f"the built-in part '{LENGTH}' already penalises overlong answers"
        yield Problem("algorithm.overlong_zone", algorithm.overlong_zone, why, f"set it to null, or drop '{LENGTH}'")


def _part(config: Config, name: str, part: RewardPart) -> Iterator[Problem]:
    key = f"reward.parts.{name}"
    if not is_part_name(name):
        why = "a part's name has letters, digits and underscores, at most 40, and does not begin with a digit"
        yield Problem(key, None, why, "choose another name")
        return
    if not math.isfinite(part.weight):
        yield Problem(f"{key}.weight", part.weight, "a weight is a finite number", f"write a number, as in {name}: 0.2")
    if part.function and part.pattern is not None:
        yield Problem(key, None, "a part is made by a function or by a pattern, not by both", "leave one of them out")
    yield from _function(f"{key}.function", part.function)
    if part.pattern is not None:
        try:
            re.compile(part.pattern)
        except re.error as error:
            why, remedy = f"not a regular expression: {error}", "escape what is meant literally with \\"
            yield Problem(f"{key}.pattern", part.pattern, why, remedy)
    is_made_elsewhere = part.function or part.pattern is not None or config.reward.function
    if name not in BUILT_IN and not is_made_elsewhere:
        why = f"there is no built-in part of this name; there are: {', '.join(BUILT_IN)}"
        yield Problem(
            key, None, why, f"give it a function or a pattern, as in {name}: {{function: package.module:name}}"
        )
