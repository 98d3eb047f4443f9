r"""The shape of an undressed answer: a name and its value, a list, a tuple or interval, a set, a union, a vector.

Everything is a scan over text; nothing is parsed as mathematics.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_CLOSERS = {")": "(", "]": "[", "}": "{"}
_GROUPED = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")
_MATRIX = re.compile(r"\\begin\{([pbB]?)(?:small)?(?:matrix|array)\*?\}(?:\{[lcr|]*\})?(.*)\\end\{[a-zA-Z]*\*?\}")
_SUBSCRIPT = re.compile(r"_(?:\{(?:[^{}]|\{[^{}]*\})*\}|\\[a-zA-Z]+|.)")
_ARGUMENTS = re.compile(r"(?<=[a-zA-Z}')])\((?:[^()]|\([^()]*\))*\)")
_ACCENT = re.compile(
    r"\\(?:overline|overrightarrow|vec|hat|bar|tilde|dot|angle|triangle|text|mathbb|mathcal|widehat|measuredangle|Delta)"
    r"(?![a-zA-Z])"
)
GREEK = (
    r"\\(?:alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|omicron|rho|sigma|tau|upsilon|phi|chi"
    r"|psi|omega|Gamma|Theta|Lambda|Xi|Pi|Sigma|Upsilon|Phi|Psi|Omega|ell|hbar|Pr|prime|circ)(?![a-zA-Z])"
)
_VARIABLE = re.compile(rf"(?:{GREEK}|[a-zA-Z])(?:{_SUBSCRIPT.pattern})?")
# One symbol, a point or figure in capitals (perhaps in bars or brackets), or a word.
_NAME = re.compile(
    rf"(?:{GREEK}|[a-zA-Z]|\|?[A-Z]{{2,6}}\|?|\|\s*\{{?[A-Z]{{2}}\}}?\s*\||\[[A-Z]{{3,6}}\]|[a-zA-Z]{{4,}}(?:\\s[a-zA-Z]+)*)"
)
_NAMES = re.compile(r"\(([^()]+)\)|\\\{(.+)\\\}")
_EQUALS = re.compile(r"(?<![<>!:\\])=(?!=)|\\approx(?![a-zA-Z])|\\equiv(?![a-zA-Z])")
_IN = re.compile(r"\\in(?![a-zA-Z])")
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|frac|lim|int|sum|prod|max|min)(?![a-zA-Z])")
DOTS = "\\dots"


@dataclass(frozen=True, slots=True)
class Items:
    r"""Several values. `opening` and `closing` are the brackets, "" for a bare list; those of a vector are
    "column" or "row"."""

    items: tuple[str, ...]
    opening: str = ""
    closing: str = ""

    @property
    def is_ordered(self) -> bool:
        """Whether the order of the items is part of the answer."""
        return self.opening not in ("", "\\{") or DOTS in (item.strip() for item in self.items)


@dataclass(frozen=True, slots=True)
class Union:
    """Pieces joined by a union sign."""

    pieces: tuple[str, ...]


def split(text: str, separators: str = ",;", grouped: bool = False) -> list[str]:
    """Parts of `text` between separators outside all brackets; with `grouped`, 1,000 stays one number."""
    inside = {place for match in _GROUPED.finditer(text) for place in range(*match.span())} if grouped else set()
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in _CLOSERS:
            depth -= 1
        elif depth == 0 and character in separators and not (character == "," and position in inside):
            parts.append(text[start:position])
            start = position + 1
    return [*parts, text[start:]]


def split_at(text: str, pattern: re.Pattern[str]) -> list[str]:
    """Parts of `text` between matches of `pattern` outside all brackets."""
    depth, depths = 0, []
    for character in text:
        depth += (character in "([{") - (character in _CLOSERS)
        depths.append(depth)
    parts, start = [], 0
    for match in pattern.finditer(text):
        if depths[match.start()] == 0:
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]


def shape(text: str, prefer_list: bool = False) -> Items | Union | None:
    """The shape of an undressed answer, or None for a single value. A bare `1,234` is a number, but where a list is
    expected (`prefer_list`)."""
    if match := _MATRIX.fullmatch(_unbracketed(text)):
        rows = [[cell.strip() for cell in row.split("&")] for row in match[2].split("\\\\") if row.strip()]
        if len(rows) == 1 or all(len(row) == 1 for row in rows):
            kind = "row" if len(rows) == 1 else "column"
            return Items(tuple(cell for row in rows for cell in row), kind, kind)
        return Items(tuple("&".join(row) for row in rows), "rows", "rows")
    pieces = split_at(text, re.compile(r"\\cup(?![a-zA-Z])"))
    if len(pieces) > 1:
        return Union(tuple(pieces))
    for opening, closing in (("\\{", "\\}"), ("\\langle", "\\rangle"), ("(", ")"), ("(", "]"), ("[", ")"), ("[", "]"),
                             ("]", "["), ("]", "]"), ("[", "["), ("(", "["), ("]", ")")):  # fmt: skip
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            inner = text[len(opening) : len(text) - len(closing)]
            if _is_balanced(inner):
                items = _items(inner, True)
                if len(items) > 1 or opening == "\\{":
                    return _bracketed(items, opening, closing)
    items = _items(text, prefer_list)
    return Items(tuple(items)) if len(items) > 1 else None


def _unbracketed(text: str) -> str:
    """An array without the brackets around it, which a matrix brings along."""
    is_array = re.match(r"[(\[]\\begin\{(?:array|matrix)\}", text) and re.search(
        r"\\end\{(?:array|matrix)\}[)\]]$", text
    )
    return text[1:-1] if is_array else text


def _bracketed(items: Sequence[str], opening: str, closing: str) -> Items:
    french = {"]": "(", "[": "["} if opening == "]" or closing == "[" else {}
    opening = french.get(opening, opening)
    closing = {"[": ")", "]": "]"}.get(closing, closing) if french else closing
    return Items(tuple(items), opening, closing)


def _items(text: str, are_separated: bool) -> list[str]:
    """Items of a list; commas within 1,000 separate only if `are_separated` and nothing else does."""
    grouped = not are_separated or len(split(text, ";")) > 1
    return [item.strip() for item in split(text, grouped=grouped) if item.strip()]


def _is_balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in _CLOSERS)
        if depth < 0:
            return False
    return depth == 0


def is_name(text: str) -> bool:
    r"""Whether `text` only names a quantity: `x`, `a_n`, `f(x)`, `m_{\max}`, `\angle ABC`, `(x, y)`; not `2x`, `xy`."""
    text = text.strip()
    if not text or len(text) > 80:
        return False
    if match := _NAMES.fullmatch(text):
        parts = split(match[1] or match[2])
        if len(parts) > 1:
            return all(is_name(part) for part in parts)
    bare = _SUBSCRIPT.sub("", text)
    if _FUNCTION.search(bare):
        return False
    bare = re.sub(r"\^(?:\{-1\}|\{\\prime\}|\\prime|\*|\{\*\})|'", "", bare)
    for match in _ARGUMENTS.finditer(bare):
        letter = bare[match.start() - 1]
        is_product = letter in match[0] or (re.search(r"[-+*/^=<>]", match[0]) and letter not in "fghpqFGPEV")
        if is_product and not letter.isupper():
            return False
    bare = _ACCENT.sub("", _ARGUMENTS.sub("", bare)).strip(" {}")
    return not bare or bool(_NAME.fullmatch(bare))


def is_variable(text: str) -> bool:
    """Whether `text` is one letter other than e and i, with a subscript or without."""
    return bool(_VARIABLE.fullmatch(text)) and text not in ("e", "i")


def split_name(text: str) -> tuple[str | None, str]:
    """(name, value) of `x = 5` or `x in [0, 1]`; (None, text) where nothing is only named. Of a chain of equations,
    the last value counts."""
    parts = split_at(text, _EQUALS)
    is_one = all(len(split(part)) == 1 for part in parts[:-1])
    if len(parts) > 1 and is_one and parts[-1].strip() and is_name(parts[0]):
        return parts[0].strip(), parts[-1].strip()
    parts = split_at(text, _IN)
    if len(parts) == 2 and is_name(parts[0]):
        return parts[0].strip(), parts[1].strip()
    return None, text


def sides(text: str) -> list[str]:
    """The sides of an equation or of a chain of them; one for what is no equation."""
    return split_at(text, _EQUALS)


def base_name(name: str) -> str:
    """A name without its subscript: x_1 and x_2 are both x."""
    return _SUBSCRIPT.sub("", name)


def same_name(left: str, right: str) -> bool:
    r"""Whether two names are one: `m_{\max}` may be `m_{\text{max}}` or `m`, `x_1` is not `x_2`."""
    plain = [re.sub(r"\\text|[^a-zA-Z0-9(),|'\[\]^]", "", name) for name in (left, right)]
    if plain[0] == plain[1]:
        return True
    bare = [base_name(name) == name for name in (left, right)]
    return bare[0] != bare[1] and base_name(left) == base_name(right)
