r"""Whether two mathematical answers are the same: an exact fast path, then Math-Verify.

The fast path reads integers, decimals, fractions, thousands separators, percent, degrees and `\text` units as
exact rationals. It decides only what Math-Verify would decide the same way (a test holds it to that on
thousands of pairs): Math-Verify rounds to six decimals, so rationals that differ by little are left to it.

Expressions that are too large to evaluate (power towers, huge exponents and factorials, sums over huge ranges) are
recognised by their text, so that no process must be killed for them. What slips through still meets the child's
deadline.
"""

import logging
import re
from fractions import Fraction

MAX_EXPONENT = 100_000
MAX_FACTORIAL = 5_000
MAX_RANGE = 100_000

_NUMBER = r"(\d{1,40})"
_OPEN, _CLOSE = r"[\s{(]*", r"[\s})]*"
_TOWER = re.compile(rf"(?=\d{_CLOSE}\^{_OPEN}{_NUMBER}{_CLOSE}\^{_OPEN}{_NUMBER})")  # overlapping
_POWER = re.compile(rf"\d{_CLOSE}\^{_OPEN}{_NUMBER}")
_FACTORIAL = re.compile(r"(\d{1,40}|[)}])\s*!")
_RANGE = re.compile(r"\\(?:sum|prod)\b.{0,80}?\^\s*(\{[^{}]{0,40}(?:\{[^{}]{0,40}\})?[^{}]{0,40}\}|\d+)")
_BINOMIAL = re.compile(rf"\\[dt]?binom{_OPEN}{_NUMBER}")


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
    return None


CLOSE = Fraction(1, 10_000)  # nearer than this, rounding may decide: left to Math-Verify
_SIGN = r"([+-]?)"
_WHOLE = re.compile(_SIGN + r"(\d{1,30})")
_THOUSANDS = re.compile(_SIGN + r"(\d{1,3}(?:,\d{3}){1,8})(?:\.(\d{1,15}))?")
_DECIMAL = re.compile(_SIGN + r"(\d{0,30})\.(\d{1,15})")
_SLASH = re.compile(_SIGN + r"(\d{1,15})/(\d{1,15})")
_FRAC = re.compile(_SIGN + r"\\[dt]?frac\{([+-]?\d{1,15})\}\{([+-]?\d{1,15})\}")
_UNIT = re.compile(r"\s*(?:\^\{?\\circ\}?|\\text\{\s*[a-zA-Z]{1,12}\s*\})$")


def exact_number(answer: str) -> tuple[Fraction, bool] | None:
    r"""(value, whether it is a percentage) of an answer that is one plain number; else None."""
    text = answer.strip().strip("$").strip().replace("{,}", ",")
    text = _UNIT.sub("", text)
    is_percent = text.endswith("\\%")
    text = text.removesuffix("\\%").strip()
    if match := _WHOLE.fullmatch(text):
        value = Fraction(int(match[2]))
    elif match := _THOUSANDS.fullmatch(text):
        value = Fraction(f"{match[2].replace(',', '')}.{match[3] or 0}")
    elif match := _DECIMAL.fullmatch(text):
        value = Fraction(f"{match[2] or 0}.{match[3]}")
    elif (match := _SLASH.fullmatch(text) or _FRAC.fullmatch(text)) and int(match[3]):
        value = Fraction(int(match[2]), int(match[3]))
    else:
        return None
    return (-value if match[1] == "-" else value), is_percent


def decided_exactly(answer: str, truth: str) -> bool | None:
    """The fast path's verdict, or None where Math-Verify must decide."""
    left, right = exact_number(answer), exact_number(truth)
    if left is None or right is None or left[1] != right[1]:
        return None
    if left[0] == right[0]:
        return True
    return False if abs(left[0] - right[0]) > CLOSE else None


def equivalent(answer: str, truth: str, tolerance: float = 0.0, fast: bool = True) -> bool:
    r"""V(y, y*): whether `answer` equals the ground truth `truth`, both without `\boxed` (MEL Eq. 1).

    With a `tolerance`, numbers within it are equal too (OlympiadBench states one for some answers). This may run
    for as long as sympy likes: call it only in a process that can be killed.
    """
    if tolerance and _within(answer, truth, tolerance):
        return True
    if fast and (decided := decided_exactly(answer, truth)) is not None:
        return decided
    return _math_verify(answer, truth)


def _within(answer: str, truth: str, tolerance: float) -> bool:
    left, right = exact_number(answer), exact_number(truth)
    return left is not None and right is not None and abs(left[0] - right[0]) <= Fraction(tolerance)


def _math_verify(answer: str, truth: str) -> bool:
    from math_verify import parse, verify  # 0.4 s to import, and plain numbers never need it

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    # Math-Verify's own timeouts rely on signals; our deadline kills the whole process instead.
    gold = parse(f"\\boxed{{{truth}}}", parsing_timeout=None)
    guess = parse(f"\\boxed{{{answer}}}", parsing_timeout=None)
    return bool(verify(gold, guess, timeout_seconds=None))
