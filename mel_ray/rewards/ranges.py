r"""Sets of real numbers: intervals, their unions, inequalities in one variable, all numbers without some."""

import re
from itertools import pairwise

from mel_ray.rewards import forms
from mel_ray.rewards.dress import key
from mel_ray.rewards.forms import Items, Union
from mel_ray.rewards.numbers import read_number

_BUILDER = re.compile(r"\\\{([a-zA-Z])(?:\\in(?:\\mathbb\{R\}|R))?[|:](.+)\\\}")
_BOTH = re.compile(r"\\wedge(?![a-zA-Z])")
_REALS = re.compile(r"\\text\{all real(?: numbers|s)?\}|all real(?: numbers|s)?|\\mathbb\{R\}|\\(?:Bbb|mathbf)\{R\}")
_WITHOUT = re.compile(r"\\mathbb\{R\}\\setminus\\\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\\\}")
_RELATION = re.compile(r"\\(le|ge|ne)(?![a-zA-Z])|([<>]=?)")


def interval_of(text: str) -> tuple[str, str] | None:
    r"""(variable, interval) of an inequality or chain in one variable: `3 < x \le 4` is (x, `(3,4]`); else None."""
    if len(both := forms.split_at(text, _BOTH)) == 2:
        return _within_both(*both)
    signs = [match[0] for match in _RELATION.finditer(text)]
    parts = [part.strip() for part in forms.split_at(text, _RELATION)]
    if len(parts) != len(signs) + 1 or len(signs) not in (1, 2) or not all(parts):
        return None
    kinds = [{"\\le": "<=", "\\ge": ">=", "\\ne": "!="}.get(sign, sign) for sign in signs]
    names = [forms.is_variable(part) for part in parts]
    if len(signs) == 1 and kinds[0] == "!=" and names[0]:
        return parts[0], f"(-\\infty,{parts[1]})\\cup({parts[1]},\\infty)"
    if len(signs) == 1 and "!=" not in kinds and any(names):
        variable, bound = parts if names[0] else parts[::-1]
        is_below = kinds[0].startswith("<") == names[0]
        closed = kinds[0].endswith("=")
        if is_below:
            return variable, f"(-\\infty,{bound}{']' if closed else ')'}"
        return variable, f"{'[' if closed else '('}{bound},\\infty)"
    if len(signs) == 2 and names == [False, True, False] and {kind[0] for kind in kinds} in ({"<"}, {">"}):
        low, variable, high = parts if kinds[0][0] == "<" else parts[::-1]
        first, second = kinds if kinds[0][0] == "<" else kinds[::-1]
        return variable, f"{'[' if first.endswith('=') else '('}{low},{high}{']' if second.endswith('=') else ')'}"
    return None


def _within_both(first: str, second: str) -> tuple[str, str] | None:
    """`x > 1 and x < 2` as one interval."""
    found = [interval_of(first), interval_of(second)]
    bounds = sorted((one for one in found if one), key=lambda one: "-\\infty" in one[1])
    if len(bounds) != 2 or key(bounds[0][0]) != key(bounds[1][0]):
        return None
    low, high = bounds[0][1], bounds[1][1]
    if not low.endswith(",\\infty)") or not high.startswith("(-\\infty,"):
        return None
    return bounds[0][0], low.removesuffix("\\infty)") + high.removeprefix("(-\\infty,")


def reals(text: str) -> str:
    """The real numbers as an interval; without some of them, as a union."""
    if (match := _BUILDER.fullmatch(text)) and (found := as_range(match[2], match[1])):
        return found
    text = _WITHOUT.sub(_punctured, text)
    return _REALS.sub(r"(-\\infty,\\infty)", text)


def _punctured(match: re.Match[str]) -> str:
    points = forms.split(match[1])
    numbers = [read_number(point) for point in points]
    if all(numbers):
        points = [point for _, point in sorted(zip((n.value for n in numbers if n), points, strict=True))]
    elif len(points) > 1:
        return match[0]
    ends = ["-\\infty", *points, "\\infty"]
    return "\\cup".join(f"({low},{high})" for low, high in pairwise(ends))


def is_range(shape: Items | Union | None) -> bool:
    """Whether a shape is an interval or a union of them (or a pair, which looks the same)."""
    return isinstance(shape, Union) or (
        isinstance(shape, Items)
        and len(shape.items) == 2
        and shape.opening in ("(", "[")
        and shape.closing in (")", "]")
    )


def as_range(text: str, variable: str | None = None) -> str | None:
    r"""An inequality in one variable as an interval; `x < 1` or `x > 2` as a union."""
    found = [one for part in forms.split(text) if (one := interval_of(part))]
    variables = {key(name) for name, _ in found}
    if len(found) != len(forms.split(text)) or len(variables) != 1 or (variable and {variable} != variables):
        return None
    return "\\cup".join(interval for _, interval in found)
