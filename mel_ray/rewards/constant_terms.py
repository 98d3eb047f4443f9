r"""A fast reader of common expressions: numbers, letters, \pi, i, e, + - * / ^, \frac, \sqrt and parentheses.

The full parser takes milliseconds for `\frac{\sqrt{5}}{5}`, this one a fraction of that. It reads a text as
the full parser does or not at all: whatever is ambiguous or could be costly is left to the full parser.
"""

import re
from typing import Any

MAX_CHARACTERS = 120
MAX_DEPTH = 8
MAX_EXPONENT = 30  # of all powers and roots of a text, multiplied
_TOKEN = re.compile(
    r"(?:\d{0,15}\.\d{1,15}|\d{1,15})(?![\d.])|\\(?:frac|sqrt|pi|cdot|times)(?![a-zA-Z]) ?"
    r"|[a-zA-Z]|[-+*/^(){}\[\]]",
    re.ASCII,
)
_SIGNS = ("+", "-")
_TIMES = ("*", "\\cdot", "\\times")
_END = ""
_AFTER_SLASH = ("+", "-", ")", "}", _END)  # 1/2x is read in more ways than one


class _LeftToParser(Exception):
    """The text is not one that this reader is sure of."""


def read_terms(text: str, is_complex: bool) -> Any:
    """The sympy expression of an undressed answer, always finite; None where the full parser must read it.

    Letters are real variables; if `is_complex`, i is the imaginary unit and there are no others.
    """
    tokens = _tokens(text)
    if tokens is None:
        return None
    reader = _Reader(tokens, is_complex)
    try:
        found = reader.sum()
        reader.take(_END)
    except _LeftToParser:
        return None
    return found


def _tokens(text: str) -> list[str] | None:
    if len(text) > MAX_CHARACTERS:
        return None
    tokens, place = [], 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            return None
        tokens.append(match[0].strip())
        place = match.end()
    return [*tokens, _END]


class _Reader:
    """Recursive descent: each method reads one rule of the grammar."""

    def __init__(self, tokens: list[str], is_complex: bool) -> None:
        self._tokens = tokens
        self._is_complex = is_complex
        self._place = 0
        self._depth = 0
        self._exponent = 1

    @property
    def _next(self) -> str:
        return self._tokens[self._place]

    @property
    def _last(self) -> str:
        return self._tokens[self._place - 1]

    def take(self, *wanted: str) -> str:
        """The next token, which must be one of those wanted."""
        if self._next not in wanted:
            raise _LeftToParser
        self._place += 1
        return self._last

    def sum(self) -> Any:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _LeftToParser
        total = 0 if self._next in _SIGNS else self._product()
        while self._next in _SIGNS:
            total = total + self._product() if self.take(*_SIGNS) == "+" else total - self._product()
        self._depth -= 1
        return total

    def _product(self) -> Any:
        first = self._next
        value = self._power()
        opens_with_number = _is_number(first) and self._last == first  # x^2(3) may be a function of 3
        while True:
            if self._next in _TIMES:
                self._place += 1
            elif self._next == "/":
                self._place += 1
                value = value / _not_zero(self._power())
                if self._next not in _AFTER_SLASH:
                    raise _LeftToParser
                return value
            elif self._next == "(":
                if not (opens_with_number or self._last == ")"):
                    raise _LeftToParser
            elif not (self._next.isalpha() or self._next in ("\\pi", "\\sqrt")):
                return value
            value = value * self._power()
            opens_with_number = False

    def _power(self) -> Any:
        from sympy import Rational

        base = self._atom()
        if self._next != "^":
            return base
        if "." in self._last:  # the full parser cannot read some powers of a decimal
            raise _LeftToParser
        self._place += 1
        is_plain = self._next == "{" or self._next.isdigit()
        exponent = self._braced() if self._next == "{" else self._atom()
        if not is_plain or not isinstance(exponent, Rational) or self._next in ("^", "("):
            raise _LeftToParser
        self._count(max(abs(exponent.p), exponent.q))
        return _not_zero(base) ** _not_zero(exponent)

    def _atom(self) -> Any:
        from sympy import E, I, Integer, Rational, Symbol, pi

        token = self._next
        self._place += 1
        if _is_number(token):
            return Integer(token) if token.isdigit() else Rational(token)
        if token == "\\pi":
            return pi
        if token == "\\frac":
            top = self._braced()
            return top / _not_zero(self._braced())
        if token == "\\sqrt":
            return self._root()
        if token == "(":
            value = self.sum()
            self.take(")")
            return value
        if not token.isalpha() or token in ("d", "I") or self._next.isalpha():  # dx, ln
            raise _LeftToParser
        if token == "e":
            return E
        if self._is_complex:  # roots of complex variables have more than one branch
            if token != "i":
                raise _LeftToParser
            return I
        return Symbol(token, real=True)

    def _root(self) -> Any:
        from sympy import Rational

        degree = 2
        if self._next == "[":
            self._place += 1
            degree = int(self.take(*"23456789"))
            self.take("]")
        self._count(degree)
        return _not_zero(self._braced()) ** Rational(1, degree)

    def _braced(self) -> Any:
        self.take("{")
        value = self.sum()
        self.take("}")
        return value

    def _count(self, exponent: int) -> None:
        self._exponent *= exponent
        if self._exponent > MAX_EXPONENT:
            raise _LeftToParser


def _is_number(token: str) -> bool:
    return token[-1:].isdigit()


def _not_zero(value: Any) -> Any:
    if value == 0:
        raise _LeftToParser
    return value
