"""Whether two mathematical answers are the same: an exact fast path, then Math-Verify.

The fast path decides only between plain integers and identical texts, where Math-Verify decides the same.
"""

import re

_INTEGER = re.compile(r"[+-]?\d{1,30}")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3}){1,8}")


def plain_integer(answer: str) -> int | None:
    """The value of an answer that is nothing but an integer, thousands separators allowed; else None."""
    text = answer.strip().strip("$").strip().replace("{,}", ",")
    if _INTEGER.fullmatch(text):
        return int(text)
    if _THOUSANDS.fullmatch(text):
        return int(text.replace(",", ""))
    return None


def equivalent(answer: str, truth: str) -> bool:
    """V(y, y*): whether `answer` equals the ground truth `truth`, both without `\\boxed` (MEL Eq. 1).

    This may run for as long as sympy likes: call it only in a process that can be killed.
    """
    left, right = plain_integer(answer), plain_integer(truth)
    if left is not None and right is not None:
        return left == right
    from math_verify import parse, verify  # 0.4 s to import, and plain integers never need it

    # Math-Verify's own timeouts rely on signals; our deadline kills the whole process instead.
    gold = parse(f"\\boxed{{{truth}}}", parsing_timeout=None)
    guess = parse(f"\\boxed{{{answer}}}", parsing_timeout=None)
    return bool(verify(gold, guess, timeout_seconds=None))
