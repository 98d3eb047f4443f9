r"""Whether two expressions are the same: read by Math-Verify's parser, compared at many points to many digits.

Two expressions are equal if they agree wherever both are defined. Many digits at a dozen points decide that faster
and more surely than a simplifier: a tiny number differs from a tinier one, and what has other variables differs at
once. Runs for as long as sympy likes: only in a process that can be killed.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from mel_ray.rewards.constant_terms import read_terms
from mel_ray.rewards.numbers import read_number

DIGITS = 250
POINT_DIGITS = 90  # where variables are set
AGREE, POINTS_AGREE = 1e-180, 1e-70  # relative, between exact expressions
NOTHING = 1e-200  # what is left of a zero at a point
MAX_OPERATIONS = 200  # of an expression in which variables may cancel
MIN_POINTS, ENOUGH_POINTS = 3, 5
# Where variables are set: fractions, integers (for what is defined there alone), and negative values.
_POINTS = ("1.3717", "-1.7320", "5", "0.4142", "-2", "2.6131", "7", "-0.3183", "3", "0.6180", "11", "0.1592", "13", "2",
           "19.3770", "-3.4142")  # fmt: skip
_DEGREES = re.compile(r"(\d+(?:\.\d+)?|[a-zA-Z]|\\[a-zA-Z]+ ?|\\frac\{[^{}]*\}\{[^{}]*\})?\^\\circ(?![a-zA-Z])")
# The parser takes 2(1/3) and (2)\frac{1}{3} for mixed numbers.
_FACTOR = re.compile(
    r"((?:(?<![\w.^_}])|(?<=\\cdot)|(?<=\\times))\d+(?:\.\d+)?)(?=[({\[])|(\))(?=\(|\\frac(?![a-zA-Z]))"
)
_CONSTANT = re.compile(r"(?<![a-zA-Z\\])([EeIi])_(?:\{([a-zA-Z0-9]+)\}|([a-zA-Z0-9]))")  # E_1 is no multiple of e
_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])")
_SUBSCRIPT = re.compile(
    r"(?<!\\log)(?<!\\sum)(?<!\\int)(?<!\\prod)(?<!\\lim)_"
    r"(?:\{((?:[^{}]|\{[^{}]*\})*\\(?:[^{}]|\{[^{}]*\})*)\}|(\\[a-zA-Z]+))"
)
_CAPITAL_I = re.compile(r"(?<![a-zA-Z\\])I(?![a-zA-Z])")
_COMPLEX = re.compile(r"(?<![a-zA-Z\\])i(?![a-zA-Z])|\\mathrm\{i\}|\\imath|\\mathbb\{C\}")
_FRACTION_OF = re.compile(r"\\(?:arc)?(sin|cos|tan|cot|sec|csc)\s*\^\s*\{?-1\}?")


@lru_cache(maxsize=256)
def parsed(plain: str, is_complex: bool) -> Any:
    """The sympy expression of an undressed answer, or None where it cannot be read."""
    found = read_terms(plain, is_complex)
    return parsed_in_full(plain, is_complex) if found is None else found


def parsed_in_full(plain: str, is_complex: bool) -> Any:
    """What Math-Verify's parser reads, or None."""
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy, normalize_latex
    from latex2sympy2_extended.math_normalization import NormalizationConfig

    latex = _FRACTION_OF.sub(r"\\arc\1", _DEGREES.sub(_radians, plain.replace(";", ",")))
    latex = _FACTOR.sub(r"\1\2\\cdot", latex)
    latex = re.sub(r"\\(gamma|zeta|Gamma)(?![a-zA-Z])(?!\s*\()", r"g_{\1}", latex)
    latex = _CONSTANT.sub(r"Q_{\1\2\3}", latex)
    latex = _SUBSCRIPT.sub(_plain_subscript, latex).replace("'", "^{\\prime}")
    latex = _DECIMAL.sub(_as_fraction, latex.replace("\\%", "\\cdot\\frac{1}{100}"))
    if "\\text{" in _SUBSCRIPT.sub("", latex) or "\\dots" in latex:
        return None
    tidy = NormalizationConfig(basic_latex=False, units=False, malformed_operators=True, nits=False, boxed="none")
    try:
        found = latex2sympy(
            normalize_latex(latex, tidy),
            is_real=not is_complex,
            convert_degrees=False,
            normalization_config=None,
            conversion_config=ConversionConfig(lowercase_symbols=False),
        )
        return _with_units(found, is_complex, bool(_CAPITAL_I.search(latex)))
    except (MemoryError, RecursionError):
        raise
    except Exception:  # the parser raises plain Exception for whatever it does not know
        return None


def _with_units(expression: Any, is_complex: bool, has_capital: bool) -> Any:
    """The parser reads I as the imaginary unit and i as a variable; in an answer it is the other way round."""
    from sympy import Derivative, Expr, I, Symbol
    from sympy.core.function import AppliedUndef

    if not isinstance(expression, Expr):
        return expression
    if has_capital:
        expression = expression.xreplace({I: Symbol("I")})
    unknown = expression.atoms(AppliedUndef, Derivative)  # f(x) and dx/dt are quantities of their own
    expression = expression.xreplace({one: Symbol(str(one), real=not is_complex) for one in unknown})
    small = [symbol for symbol in expression.free_symbols if symbol.name == "i"] if is_complex else []
    return expression.subs(dict.fromkeys(small, I))


def _plain_subscript(match: re.Match[str]) -> str:
    r"""`R_\odot` and `m_{\max}` as subscripts of letters, which the parser reads."""
    return "_{" + re.sub(r"[^a-zA-Z0-9+,-]|text", "", match[1] or match[2]) + "}"


def _as_fraction(match: re.Match[str]) -> str:
    """A decimal, exactly."""
    return rf"\frac{{{int(match[1] + match[2])}}}{{{10 ** len(match[2])}}}"


def _radians(match: re.Match[str]) -> str:
    return rf"({match[1]}\cdot\frac{{\pi}}{{180}})" if match[1] else r"\cdot\frac{\pi}{180}"


def same_value(answer: str, truth: str, tolerance: float = 0.0) -> bool | None:
    """Whether two undressed expressions are equal; None where one is no expression that can be evaluated."""
    from sympy import Expr, oo

    is_complex = bool(_COMPLEX.search(answer) or _COMPLEX.search(truth))
    left, right = parsed(answer, is_complex), parsed(truth, is_complex)
    if not isinstance(left, Expr) or not isinstance(right, Expr):
        return None
    left, right = _summed(left), _summed(right)
    if left.has(*_not_finite()) or right.has(*_not_finite()):
        return left == right and left in (oo, -oo)  # infinity is infinity, and nothing is computed with it
    if left == right:
        return True
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    if not symbols:
        return _same_number(left, right, max(tolerance, _slack(answer), _slack(truth)))
    if left.free_symbols != right.free_symbols and not _is_zero(left - right):
        return False
    valid = 0
    for first, second in _at_points(left, right, symbols, not is_complex):
        if not _agree(first, second, POINTS_AGREE) and abs(first - second) > NOTHING:
            return False
        valid += 1
        if valid == ENOUGH_POINTS:
            return True
    return True if valid >= MIN_POINTS else None


def _summed(expression: Any) -> Any:
    """With sums, products, integrals and limits carried out where they have a closed form."""
    from sympy import Integral, Limit, Product, Sum

    return expression.doit() if expression.has(Integral, Limit, Product, Sum) else expression


def _is_zero(difference: Any) -> bool:
    """Whether a variable that one side alone has cancels out."""
    from sympy import cancel, expand

    if difference.count_ops() > MAX_OPERATIONS:
        return False
    with suppress(Exception):  # what cannot be expanded does not cancel
        return bool(expand(difference) == 0 or cancel(difference) == 0)
    return False


def proportional(answer: str, truth: str) -> bool | None:
    """Whether two equations, each given as its left side minus its right, say the same: their ratio is a constant."""
    from mpmath import workdps
    from sympy import Expr

    is_complex = bool(_COMPLEX.search(answer) or _COMPLEX.search(truth))
    left, right = parsed(answer, is_complex), parsed(truth, is_complex)
    if not isinstance(left, Expr) or not isinstance(right, Expr):
        return None
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    if not symbols:
        return None
    with workdps(DIGITS):
        ratios = [
            first / second
            for first, second in _at_points(left, right, symbols, not is_complex)
            if abs(first) > NOTHING and abs(second) > NOTHING
        ]
    if len(ratios) < MIN_POINTS:
        return None
    return all(_agree(ratio, ratios[0], POINTS_AGREE) for ratio in ratios)


def _slack(plain: str) -> float:
    """How far an exact value may lie from a plain decimal that is its rounding."""
    number = read_number(plain)
    return float((number and number.slack) or 0.0)


def _same_number(left: Any, right: Any, slack: float) -> bool | None:
    exact = [value for value in (left.doit(), right.doit()) if value.is_Rational]
    if len(exact) == 2:
        return bool(abs(exact[0] - exact[1]) <= slack)
    first, second = _number(left), _number(right)
    if first is None or second is None:
        return None
    return bool(slack and abs(first - second) <= slack) or _agree(first, second)


def _number(expression: Any) -> Any:
    """An mpmath number, or None where the expression has no finite value."""
    from mpmath import mpc

    try:
        value = expression.evalf(DIGITS, maxn=3 * DIGITS)
        if not value.is_number or value.has(*_not_finite()):
            value = expression.doit().evalf(DIGITS, maxn=3 * DIGITS)
        if not value.is_number or value.has(*_not_finite()):
            return None
        real, imaginary = value.as_real_imag()
        first, second = real._to_mpmath(4 * DIGITS), imaginary._to_mpmath(4 * DIGITS)
        return first if second == 0 else mpc(first, second)
    except (MemoryError, RecursionError):
        raise
    except Exception:  # sympy raises whatever its parts raise
        return None


def _number_at(expression: Any, values: dict[Any, Any], exactly: bool) -> Any:
    """The value where the variables are set; integers `exactly`, so that a pole is one."""
    if not exactly:
        with suppress(TypeError, ValueError, AttributeError, NotImplementedError, ZeroDivisionError, OverflowError):
            value = expression.evalf(POINT_DIGITS, subs=values, maxn=3 * DIGITS)
            if value.is_number and not value.free_symbols:
                return _number(value)
    return _number(expression.subs(values))


@lru_cache(maxsize=1)
def _not_finite() -> tuple[Any, ...]:
    from sympy import nan, oo, zoo

    return (nan, oo, -oo, zoo)


def _at_points(left: Any, right: Any, symbols: Sequence[Any], is_real: bool) -> Iterator[tuple[Any, Any]]:
    """The values of both expressions at each point where both have one; without i, real ones alone."""
    from mpmath import mpc, mpf
    from sympy import Abs, Product, Rational, Sum

    has_bars = left.has(Abs) != right.has(Abs)
    are_integers = left.has(Sum, Product) or right.has(Sum, Product)
    for number, point in enumerate(_POINTS):
        if are_integers and "." in point:
            continue
        # another value for each variable, from the same kind of numbers
        values = {symbol: Rational(point) + _offset(number, index) for index, symbol in enumerate(symbols)}
        first, second = _number_at(left, values, "." not in point), _number_at(right, values, "." not in point)
        if first is None or second is None:
            continue
        if is_real and (isinstance(first, mpc) or isinstance(second, mpc)):
            if has_bars and isinstance(first, mpc) != isinstance(second, mpc):  # ln x and ln |x|
                yield mpf(0), mpf(1)
            continue
        yield first, second


def _offset(number: int, index: int) -> Any:
    """Keeps the variables of one point apart: integers stay integers, negative values stay negative."""
    from sympy import Rational

    if not index:
        return 0
    step = index * (number + 2)
    is_integer, is_negative = "." not in _POINTS[number], _POINTS[number].startswith("-")
    size = Rational(step) if is_integer else Rational(step * 7 + 3, 11)
    return -size if is_negative else size


def _agree(first: Any, second: Any, share: float = AGREE) -> bool:
    """Equal to many digits, however small or large both are."""
    return bool(first == second or abs(first - second) <= share * max(abs(first), abs(second)))
