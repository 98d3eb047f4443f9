r"""Plain numbers, read exactly: integers, decimals, fractions, mixed numbers, scientific notation, with their mark.

A mark is what follows a numeral: a percent sign, a degree sign, or a unit.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from mel_ray.rewards.dress import key, undressed
from mel_ray.rewards.units import SCALES, canonical, is_unit

MIN_PLACES, MAX_PLACES = 6, 14  # 0.333333 is a third, 0.33 is not; what follows 14 places is a computer's noise
MAX_RELATIVE = Fraction(1, 10_000)  # 0.000033 is no rounding of 1/30000
MAX_POWER = 400

_DECIMAL = r"(?:\d{1,60}(?:\.\d{0,40})?|\.\d{1,40}|[1-9]\d{0,2}(?:,\d{3}){1,12}(?:\.\d{0,40})?)"
_NUMBER = re.compile(rf"([+-]?)\(?({_DECIMAL})\)?")
_FRACTION = re.compile(
    rf"([+-]?)(?:\(?([+-]?{_DECIMAL})\)?/\(?({_DECIMAL})\)?|\\frac\{{([+-]?{_DECIMAL})\}}\{{([+-]?{_DECIMAL})\}})"
)
_REPEATING = re.compile(r"([+-]?)(\d{0,30})\.(\d{0,30})\\overline\{(\d{1,30})\}")
_MIXED = re.compile(r"([+-]?)(\d{1,15})\\frac\{(\d{1,15})\}\{(\d{1,15})\}")
_SCIENTIFIC = re.compile(
    rf"([+-]?)(?:({_DECIMAL})(?:\\times|\\cdot|\*)|(?=10\^))10\^(?:\{{([+-]?\d{{1,3}})\}}|(\d))"
    rf"|([+-]?)({_DECIMAL})[eE]([+-]?\d{{1,3}})"
)
_TEXT_UNIT = r"\\text\{[^{}]*\}(?:\^\{?-?[123]\}?)?"
_MARK = re.compile(
    rf"(\\%(?:\\text\{{[^{{}}]*\}})?|\^\\circ ?(?:\\text\{{[^{{}}]*\}}|[CFK])?"
    rf"|{_TEXT_UNIT}(?:(?:/|\\cdot)?{_TEXT_UNIT})*)$"
)
_SCALED = re.compile(rf"(?i)\\text\{{({'|'.join(SCALES)})(.*)\}}")
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")


@dataclass(frozen=True, slots=True)
class Marked:
    r"""What stands before a mark, and the mark: "%", "°", a unit such as `\text{cm}^2`, or "" for none."""

    numeral: str
    mark: str


@lru_cache(maxsize=512)
def split_mark(plain: str) -> Marked:
    """Numeral and mark of an undressed answer."""
    match = _MARK.search(plain)
    if not match or not match.start() or (match[1].startswith("^") and _is_compound(plain[: match.start()])):
        return Marked(plain, "")
    mark = match[1]
    if mark.startswith("\\%"):
        if len(mark) > 2 and not is_unit(mark[2:]):
            return Marked(plain, "")
        mark = "%"
    elif mark.strip() == "^\\circ":
        mark = "°"
    elif scaled := _SCALED.fullmatch(mark):
        return Marked(rf"{plain[: match.start()]}\cdot{SCALES[scaled[1].lower()]}", scaled[2].strip())
    else:
        mark = mark.replace("^\\circ", "degree ")
    return Marked(plain[: match.start()], mark)


def _is_compound(numeral: str) -> bool:
    """Whether a degree sign belongs to the last part of an expression alone: a sum, or a function's argument."""
    depth = 0
    for character in numeral[1:]:
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and character in "+-":
            return True
    return bool(_FUNCTION.search(numeral))


@dataclass(frozen=True, slots=True)
class Number:
    """An exact value; `places` counts the decimals it was written with, None for an exact number."""

    value: Fraction
    places: int | None = None

    @property
    def slack(self) -> Fraction | None:
        """How far an exact number may lie from this decimal, where it shows enough places to be a rounding."""
        if self.places is None or self.places < MIN_PLACES:
            return None
        return min(Fraction(1, 2 * 10 ** min(self.places, MAX_PLACES)), MAX_RELATIVE * abs(self.value))

    def equals(self, other: "Number") -> bool:
        """The same value; or a decimal of at least six places and what rounds to it."""
        if self.value == other.value:
            return True
        slacks = [one.slack for one in (self, other) if one.places is not None]
        if not slacks or any(slack is None for slack in slacks):
            return False
        return abs(self.value - other.value) <= max(slack for slack in slacks if slack is not None)


@lru_cache(maxsize=512)
def read_number(numeral: str) -> Number | None:
    """The number an undressed numeral writes, or None."""
    if match := _NUMBER.fullmatch(numeral):
        _, point, decimals = match[2].partition(".")
        return _signed(match[1], _fraction(match[2]), len(decimals) if point else None)
    if match := _REPEATING.fullmatch(numeral):
        whole, digits, period = match[2] or "0", match[3], match[4]
        ninths = Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(digits))
        return _signed(match[1], _fraction(f"{whole}.{digits}") + ninths)
    if match := _FRACTION.fullmatch(numeral):
        top, bottom = match[2] or match[4], match[3] or match[5]
        if not _fraction(bottom):
            return None
        return _signed(match[1], _fraction(top) / _fraction(bottom))
    if match := _MIXED.fullmatch(numeral):
        if not int(match[4]):
            return None
        return _signed(match[1], int(match[2]) + Fraction(int(match[3]), int(match[4])))
    if match := _SCIENTIFIC.fullmatch(numeral):
        sign, head, power = match[1] or match[5] or "", match[2] or match[6] or "1", match[3] or match[4] or match[7]
        if abs(int(power)) > MAX_POWER:
            return None
        return _signed(sign, _fraction(head) * Fraction(10) ** int(power))
    return None


def _fraction(text: str) -> Fraction:
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-").replace(",", "")
    return sign * Fraction(f"0{digits}0" if digits.endswith(".") else f"0{digits}")


def _signed(sign: str, value: Fraction, places: int | None = None) -> Number:
    return Number(-value if sign == "-" else value, places)


def plain_form(answer: str) -> tuple[Fraction | str, str]:
    """Equal for answers that are plainly the same: the same number with the same mark, or the same text."""
    plain = undressed(answer)
    marked = split_mark(plain)
    number = read_number(marked.numeral)
    return (key(plain), "") if number is None else (number.value, canonical(marked.mark) or marked.mark)
