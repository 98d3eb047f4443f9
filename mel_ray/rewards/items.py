"""Several values: lists, sets, tuples, vectors, and the two values of a plus-minus sign."""

import re
from collections.abc import Callable, Sequence
from itertools import chain, product

from mel_ray.rewards import forms
from mel_ray.rewards.dress import key
from mel_ray.rewards.forms import Items, Union

MAX_ITEMS = 200
MAX_COMPARED = 40  # items of a longer list are compared as text alone
_SIGNS = re.compile(r"\\(pm|mp)(?![a-zA-Z])")
Same = Callable[[str, str], bool]  # (answer, truth)


def shape_of(text: str, prefer_list: bool = False) -> Items | Union | None:
    """The shape of an answer, where `1 \pm 2` is a list of two values."""
    found = forms.shape(text, prefer_list)
    if isinstance(found, Items) and any(_SIGNS.search(item) for item in found.items):
        expanded = tuple(one for item in found.items for one in both_signs(item) or (item,))
        return Items(expanded, found.opening, found.closing)
    if found is None and (both := both_signs(text)):
        return Items(both)
    return found


def both_signs(text: str) -> tuple[str, ...] | None:
    """The two values of an expression with a plus-minus sign; None without one, or for a list."""
    if not _SIGNS.search(text):
        return None
    _, value = forms.split_name(text)
    if forms.shape(value) is not None:
        return None
    if _SIGNS.findall(value).count("pm") in (2, 3) and "\\mp" not in value:  # signs that are free of each other
        pieces = _SIGNS.split(value)[::2]
        chosen = product("+-", repeat=len(pieces) - 1)
        found = ["".join([pieces[0], *chain(*zip(signs, pieces[1:], strict=True))]) for signs in chosen]
        return tuple(one.lstrip("+") for one in found)
    upper = _SIGNS.sub(lambda match: "+" if match[1] == "pm" else "-", value)
    lower = _SIGNS.sub(lambda match: "-" if match[1] == "pm" else "+", value)
    return upper.lstrip("+"), lower.lstrip("+")


def single(text: str) -> str:
    """A set of one value, or a list that repeats one, is that value."""
    found = forms.shape(text)
    if isinstance(found, Items) and found.opening in ("", "\\{") and len(_distinct(found.items)) == 1:
        is_set = found.opening and re.match(r"\\\{|\\emptyset", found.items[0])
        return text if is_set else found.items[0]
    return text


def same_items(left: Items, right: Items, same: Same) -> bool:
    """Whether two lists, sets, tuples, intervals or vectors are the same; `right` is the truth."""
    if max(len(left.items), len(right.items)) > MAX_ITEMS or not _may_be_same_brackets(left, right):
        return False
    if left.is_ordered or right.is_ordered:
        return _same_in_order(left.items, right.items, same)
    if (by_name := _named_alike(left.items, right.items)) is not None:
        return _same_in_order(*by_name, same)
    if not _may_be_same_names(left.items, right.items):
        return False
    lefts, rights = _without_shared_name(left.items), _without_shared_name(right.items)
    if _are_told_apart(left.items) != _are_told_apart(right.items):  # the names on one side give the order
        return _same_in_order(lefts, rights, same)
    return matched(lefts, rights, same)


def _same_in_order(lefts: Sequence[str], rights: Sequence[str], same: Same) -> bool:
    return len(lefts) == len(rights) and all(
        _same_item(one, other, same) for one, other in zip(lefts, rights, strict=True)
    )


def matched(lefts: Sequence[str], rights: Sequence[str], same: Same) -> bool:
    """Whether each item of one side has its like on the other, in any order; repeated items count once."""
    lefts, left_over = _distinct(lefts), _distinct(rights)
    if len(lefts) != len(left_over):
        return False
    for one in lefts:
        found = next((other for other in left_over if key(one) == key(other)), None)
        if found is None and len(rights) <= MAX_COMPARED:
            found = next((other for other in left_over if _same_item(one, other, same)), None)
        if found is None:
            return False
        left_over.remove(found)
    return True


def _same_item(plain: str, gold: str, same: Same) -> bool:
    if forms.DOTS in (plain, gold):
        return plain == gold
    if "&" in plain or "&" in gold:  # a row of a matrix
        return _same_in_order([one.strip() for one in plain.split("&")], [one.strip() for one in gold.split("&")], same)
    return same(plain, gold)


def _distinct(items: Sequence[str]) -> list[str]:
    return list({key(item): item for item in items}.values())


_VECTORS = ("(", "row", "column", "\\langle")


def _may_be_same_brackets(left: Items, right: Items) -> bool:
    """`(1,2)` may be written `1,2` or as a vector; an open end is never a closed one; a set is no tuple."""
    if (left.opening, left.closing) == (right.opening, right.closing):
        return True
    if {left.opening, right.opening} == {"row", "column"}:
        return False
    if left.opening in _VECTORS and right.opening in _VECTORS:
        return ("]" not in (left.closing, right.closing)) and not {")", "]"} <= {left.closing, right.closing}
    for one, other in ((left, right), (right, left)):
        if one.opening == "":
            return other.opening in ("\\{", "row", "column", "\\langle") or (other.opening, other.closing) == ("(", ")")
    return False


def _without_shared_name(items: Sequence[str]) -> tuple[str, ...]:
    """`n = 1, 2, 3` names all its items; `x = 1, x = 2` names each."""
    named = [forms.split_name(item) for item in items]
    if named and named[0][0] and all(name is None for name, _ in named[1:]):
        return (named[0][1], *(value for _, value in named[1:]))
    if len({forms.base_name(name) for name, _ in named if name}) == 1 and all(name for name, _ in named):
        return tuple(value for _, value in named)
    return tuple(items)


def _named_alike(lefts: Sequence[str], rights: Sequence[str]) -> tuple[list[str], list[str]] | None:
    """The values of both sides in one order, where both have the same names: a_1 = 3, a_2 = 4."""
    first, second = (dict(_by_name(items)) for items in (lefts, rights))
    if None in first or None in second or len(first) < 2 or set(first) != set(second) or len(first) != len(lefts):
        return None
    return [first[name] for name in first], [second[name] for name in first]


def _may_be_same_names(lefts: Sequence[str], rights: Sequence[str]) -> bool:
    """Whether lists that name all their items use the same names, subscripts apart."""
    first, second = (
        {forms.base_name(name) if name else None for name, _ in map(forms.split_name, items)}
        for items in (lefts, rights)
    )
    return None in first or None in second or first == second


def _by_name(items: Sequence[str]) -> list[tuple[str | None, str]]:
    return [(key(name) if name else None, value) for name, value in map(forms.split_name, items)]


def _are_told_apart(items: Sequence[str]) -> bool:
    """Whether each item has a name of its own: `x = 1, y = 2`."""
    names = [forms.split_name(item)[0] for item in items]
    return all(names) and len({forms.base_name(name) for name in names if name}) > 1
