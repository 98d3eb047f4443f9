"""Expressions that are too large to evaluate, recognised by their text, so that no process must be killed for them.

Power towers, huge exponents and factorials, sums over huge ranges. What slips through still meets the child's deadline.
"""

import re
from math import prod

MAX_EXPONENT = 100_000
MAX_FACTORIAL = 5_000
MAX_RANGE = 10_000
MAX_DEPTH = 25

_NUMBER = r"(\d{1,40})(?:\.\d{1,40})?"
_OPEN, _CLOSE = r"[\s{(]*", r"[\s})]*"
_TOWER = re.compile(rf"(?=\d{_CLOSE}\^{_OPEN}{_NUMBER}{_CLOSE}\^{_OPEN}{_NUMBER})")  # overlapping
_POWER = re.compile(rf"\d{_CLOSE}\^{_OPEN}{_NUMBER}")
_EXPONENT = re.compile(rf"\d{_CLOSE}\^\s*\{{((?:[^{{}}]|\{{(?:[^{{}}]|\{{[^{{}}]*\}})*\}})*)\}}")
_PLAIN_POWER = re.compile(r"(\d{1,20})\s*\^\s*\{?\s*(\d{1,20})")
_TIMES = re.compile(r"\\cdot|\\times|\*")
_FACTORIAL = re.compile(r"(\d{1,40}|[)}])\s*!")
_RANGE = re.compile(r"\\(?:sum|prod)\b.{0,80}?\^\s*(\{[^{}]{0,40}(?:\{[^{}]{0,40}\})?[^{}]{0,40}\}|\d+)")
_BINOMIAL = re.compile(rf"\\[dt]?binom{_OPEN}{_NUMBER}")
_AGAIN = re.compile(r"!\s*[)}]+\s*!")  # a factorial of a factorial
_GAMMA = re.compile(r"\\Gamma[\s({]*(?:\d{5,}|\d+[\s})]*\^)")


def _is_large(exponent: str) -> bool:
    """Whether what stands in a number's exponent is a large number, judged by its parts."""
    if "!" in exponent or "binom" in exponent:
        return True
    if any(_exceeds(int(power[1]), int(power[2]), MAX_EXPONENT) for power in _PLAIN_POWER.finditer(exponent)):
        return True
    return bool(_TIMES.search(exponent)) and prod(map(int, re.findall(r"\d{1,20}", exponent))) > MAX_EXPONENT


def _exceeds(base: int, exponent: int, limit: int) -> bool:
    """Whether base ** exponent > limit, without computing anything large."""
    if base <= 1:
        return base > limit
    return exponent > limit.bit_length() or base**exponent > limit


def too_large(expression: str) -> str | None:
    """Why an expression must not be evaluated, or None."""
    for match in _TOWER.finditer(expression):
        if _exceeds(int(match[1]), int(match[2]), MAX_EXPONENT):
            return "a power tower too large to evaluate"
    if any(int(match[1]) > MAX_EXPONENT for match in _POWER.finditer(expression)):
        return "an exponent too large to evaluate"
    if any(_is_large(match[1]) for match in _EXPONENT.finditer(expression)):
        return "an exponent too large to evaluate"
    for match in _FACTORIAL.finditer(expression):
        digits = re.findall(r"\d{1,40}", expression[: match.start()][-60:]) if match[1] in ")}" else [match[1]]
        has_power = match[1] in ")}" and "^" in expression[: match.start()][-60:]
        if has_power or any(int(number) > MAX_FACTORIAL for number in digits):
            return "a factorial too large to evaluate"
    for match in _RANGE.finditer(expression):
        if "^" in match[1] or any(int(n) > MAX_RANGE for n in re.findall(r"\d{1,40}", match[1])):
            return "a sum or product over a range too large to evaluate"
    if any(int(match[1]) > MAX_RANGE for match in _BINOMIAL.finditer(expression)):
        return "a binomial too large to evaluate"
    if _AGAIN.search(expression) or _GAMMA.search(expression):
        return "a factorial too large to evaluate"
    if _depth(expression) > MAX_DEPTH:
        return "nested too deeply"
    return None


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest
