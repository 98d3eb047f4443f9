r"""Numerals in a base: `4210_{7}`, `1101_{\text{two}}`."""

import re

from mel_ray.rewards.numbers import read_number

_BASE = re.compile(r"\(?([+-]?[0-9A-Z]+)\)?_(?:\{\(?(?:\\text\{)?([a-z]+|\d{1,2})\}?\)?\}|(\d))")
_INSIDE = re.compile(r"(?<![\^\da-zA-Z{])\d[\d.]*\)?_(?:\w|\{)")  # a numeral in a base, within more
_NAMES = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
          "fourteen", "fifteen", "sixteen")  # fmt: skip
_BASES = {name: number for number, name in enumerate(_NAMES, 2)}


def same_in_base(plain: str, gold: str) -> bool | None:
    """Numerals in a base: the same digits, in the same base where both name one."""
    left, right = _in_base(plain), _in_base(gold)
    if left is None and right is None:
        return False if _INSIDE.search(plain) or _INSIDE.search(gold) else None
    if right is not None:
        if left is not None:
            return left == right
        return plain.replace(",", "") == right[0]
    assert left is not None
    digits, base = left
    try:
        value = int(digits, base)
    except ValueError:
        return False
    number = read_number(gold)
    return number is not None and number.value == value


def _in_base(text: str) -> tuple[str, int] | None:
    match = _BASE.fullmatch(text)
    if not match:
        return None
    name = match[2] or match[3]
    base = _BASES.get(name) or (int(name) if name.isdigit() else 0)
    if (
        not 2 <= base <= 36
        or any(int(digit, 36) >= base for digit in match[1].lstrip("+-"))
        or (base <= 10 and not match[1].isdigit())
        or (match[1].isalpha() and len(match[1]) == 1)
    ):
        return None
    return match[1].lstrip("0") or "0", base
