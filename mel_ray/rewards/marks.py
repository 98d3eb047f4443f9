"""Single values with a percent sign, a degree sign or a unit.

The same numeral is right with or without the sign where the truth has the sign or is at least 1: 33 for 33%, 8% for 8.
The same value is right: 37.5% for 3/8, pi for 180 degrees. 0.5% for 0.5 is neither.
"""

from collections.abc import Callable

from mel_ray.rewards.numbers import Marked, read_number
from mel_ray.rewards.units import canonical, compatible
from mel_ray.rewards.values import same_value

_PARTS = {"%": 100, "": 1}
_FACTOR = {"%": r"\frac{1}{100}", "°": r"\frac{\pi}{180}"}
Same = Callable[[str, str], bool | None]  # (answer, truth), both without marks


def same_marked(answer: Marked, truth: Marked, same: Same) -> bool | None:
    """The verdict, or None where the numerals cannot be compared."""
    signs = {answer.mark, truth.mark} & set(_FACTOR)
    if signs and "rad" in (canonical(answer.mark), canonical(truth.mark)):
        return "%" not in signs and same_value(_valued(_without_radians(answer)), _valued(_without_radians(truth)))
    answer, truth = _without_radians(answer), _without_radians(truth)
    if answer.mark == truth.mark:
        return same(answer.numeral, truth.numeral)
    if not signs:
        return compatible(answer.mark, truth.mark) and same(answer.numeral, truth.numeral)
    if answer.mark and truth.mark:  # 30 degrees may leave out Celsius; nothing else goes together
        is_temperature = "°" in signs and "degree" in answer.mark + truth.mark
        return is_temperature and same(answer.numeral, truth.numeral)
    if same(answer.numeral, truth.numeral) and (truth.mark or _is_at_least_one(truth.numeral)):
        return True
    left, right = read_number(answer.numeral), read_number(truth.numeral)
    if left and right and signs == {"%"}:
        return left.value / _PARTS[answer.mark] == right.value / _PARTS[truth.mark]
    return same_value(_valued(answer), _valued(truth))  # a tolerance belongs to the numeral


def _without_radians(marked: Marked) -> Marked:
    return Marked(marked.numeral, "") if canonical(marked.mark) == "rad" else marked


def _valued(marked: Marked) -> str:
    return rf"({marked.numeral})\cdot{_FACTOR[marked.mark]}" if marked.mark else marked.numeral


def _is_at_least_one(numeral: str) -> bool:
    number = read_number(numeral)
    if number is not None:
        return abs(number.value) >= 1
    return same_value(f"||{numeral}|-1|", f"|{numeral}|-1") is True  # | |v| - 1 | is |v| - 1 from |v| = 1 on
