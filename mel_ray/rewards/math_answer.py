r"""Whether two mathematical answers are the same (V of MEL Eq. 1).

An answer is compared as text, as an exact number, by its shape (lists, intervals, tuples, sets, vectors, names before
an equals sign), and at last by value. Math-Verify decides what is none of these. False credit is the worse mistake:
what was not said does not count, and what cannot be read is wrong.
"""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from mel_ray.rewards import forms, items, ranges
from mel_ray.rewards.bases import same_in_base
from mel_ray.rewards.choices import by_letter
from mel_ray.rewards.dress import key, undressed
from mel_ray.rewards.forms import Items, Union
from mel_ray.rewards.limits import too_large
from mel_ray.rewards.marks import same_marked
from mel_ray.rewards.numbers import read_number, split_mark
from mel_ray.rewards.units import canonical
from mel_ray.rewards.values import proportional, same_value
from mel_ray.rewards.words import has_words, same_words

MAX_DEPTH = 8
_RELATION = re.compile(r"\\(?:le|ge|ne)(?![a-zA-Z])|[<>]")
_ONLY_AS_TEXT = re.compile(
    r"!!|:|\\int(?![a-zA-Z_])|\\(?:angle|triangle|measuredangle|sphericalangle|pmod|vee|wedge|subset|supset|subseteq|dots"
    r"|neg|perp|parallel|sim|cong)(?![a-zA-Z])"
)
_RATIO = re.compile(r"(\d+)/(\d+)|\\frac\{(\d+)\}\{(\d+)\}")
_ARROW = re.compile(r"\\(?:(?:Long|long)?(?:left)?[rR]ightarrow|Leftrightarrow|implies|therefore|because)(?![a-zA-Z])")
_NOT_EVALUATED = re.compile(r"\\(?:begin|setminus|cap|mid|forall|exists|mapsto|mathbb|emptyset)(?![a-zA-Z])|\\\{")
_BRACES_AS_FACTOR = re.compile(  # 2\{x\} may be a product or twice a fractional part
    r"(?:[\d)]|(?<![a-zA-Z\\])[a-zA-Z]|\\pi)\\\{|\\\}(?:[\w(]|\\(?:frac|sqrt|pi)(?![a-zA-Z]))"
)
_RADIANS = re.compile(r"\\(?:pi|a?r?c?(?:sin|cos|tan|cot|sec|csc))(?![a-zA-Z])")
_NO_LETTERS = re.compile(r"\\(?:begin|end)\{[^{}]*\}|\\text\{[^{}]*\}|_\{[^{}]*\}|_.")
_NO_VARIABLES = ("e", "i", "d", "\\circ", "\\prime", "\\Pr")
_BINDING = re.compile(r"\\(?:sum|prod|int|lim)(?![a-zA-Z])")  # what binds a variable of its own
_VARIABLE = re.compile(rf"[a-zA-Z']|{forms.GREEK}")
_LETTER = re.compile(r"\\[a-zA-Z]+|(?<![a-zA-Z\\])[a-zA-Z]|(?<=[a-zA-Z])[a-zA-Z]|'")
Tolerance = float | Sequence[float]


def equivalent(answer: str, truth: str, tolerance: Tolerance = 0.0, options: Sequence[str] = ()) -> bool:
    r"""Whether `answer` equals the ground truth `truth`, both without `\boxed`.

    Numbers within `tolerance` of the truth are equal too; several tolerances belong to the items of a list.
    `options` are the texts of a multiple-choice question, A first. This may run for as long as sympy likes: call it
    only in a process that can be killed.
    """
    if are_numbers(answer, truth):
        return bool(_Comparison(tolerance, truth).same_scalar(answer, truth))
    plain, gold = undressed(answer), undressed(truth)
    if not plain or not gold:
        return False
    if key(plain) == key(gold):
        return True
    if too_large(plain) or too_large(gold):
        return False
    comparison = _Comparison(tolerance, gold)
    decided = by_letter(plain, gold, [undressed(option) for option in options], comparison.same)
    return comparison.same(plain, gold) if decided is None else decided


def are_numbers(answer: str, truth: str) -> bool:
    """Whether both are plain numbers as they stand, which nothing more needs to be known of."""
    return read_number(answer) is not None and read_number(truth) is not None


def is_list(truth: str) -> bool:
    """Whether a ground truth is several values, so that several boxes of a response are the answer."""
    if read_number(truth) is not None:
        return False
    gold = undressed(truth)
    found = forms.shape(gold) or forms.shape(forms.split_name(gold)[1])
    is_bare = isinstance(found, Items) and found.opening in ("", "\\{")
    return is_bare or items.both_signs(gold) is not None


class _Comparison:
    """Compares undressed answers; `truth` is the whole ground truth, whose items may have tolerances of their own."""

    def __init__(self, tolerance: Tolerance, truth: str) -> None:
        self._depth = 0
        self._tolerances: dict[str, float] = {}
        self._tolerance = tolerance if isinstance(tolerance, int | float) else next(iter(tolerance), 0.0)
        if not isinstance(tolerance, int | float):
            found = forms.shape(truth)
            if isinstance(found, Items) and len(found.items) == len(tolerance):
                for item, each in zip(found.items, tolerance, strict=True):
                    name = key(split_mark(forms.split_name(item)[1]).numeral)
                    self._tolerances[name] = min(each, self._tolerances.get(name, each))

    def same(self, plain: str, gold: str) -> bool:
        """Whether an undressed answer equals an undressed truth."""
        plain, gold = ranges.reals(plain), ranges.reals(gold)
        if self._depth == 0:
            plain, gold = items.single(plain), items.single(gold)
        if key(plain) == key(gold):
            return True
        if self._depth > MAX_DEPTH or (_ARROW.search(plain) and not _ARROW.search(gold)):
            return False
        self._depth += 1
        try:
            for compare in (same_in_base, self._shape, self._named, self._words, self._marked, self._equation):
                if (decided := compare(plain, gold)) is not None:
                    return decided
            return _math_verify(plain, gold)
        finally:
            self._depth -= 1

    def same_scalar(self, plain: str, gold: str) -> bool | None:
        """Two values without marks; None where one cannot be evaluated."""
        tolerance = self._tolerances.get(key(gold), self._tolerance)
        if key(plain) == key(gold):
            return True
        if ":" in gold and (ratio := _RATIO.fullmatch(plain)):  # 1/2 for 1:2
            return key(f"{ratio[1] or ratio[3]}:{ratio[2] or ratio[4]}") == key(gold)
        if _ONLY_AS_TEXT.search(plain) or _ONLY_AS_TEXT.search(gold):
            return False
        left, right = read_number(plain), read_number(gold)
        if left is not None and right is not None:
            slack = Fraction(tolerance) * Fraction(1_000_000_001, 1_000_000_000)  # a stated 0.1 is no exact tenth
            return left.equals(right) or (tolerance > 0 and abs(left.value - right.value) <= slack)
        if _has_lone_letter(plain, gold) or _has_lone_letter(gold, plain):
            return False
        if _NOT_EVALUATED.search(plain) or _NOT_EVALUATED.search(gold):
            return None
        if ("^\\circ" in gold) != ("^\\circ" in plain) and not _RADIANS.search(plain + gold):  # 90 - a for 90° - a
            plain, gold = plain.replace("^\\circ", ""), gold.replace("^\\circ", "")
        return same_value(plain, gold, tolerance)

    def _words(self, plain: str, gold: str) -> bool | None:
        return same_words(plain, gold) if has_words(plain) or has_words(gold) else None

    def _marked(self, plain: str, gold: str) -> bool | None:
        if len(forms.sides(plain)) > 1 or len(forms.sides(gold)) > 1 or _RELATION.search(plain + gold):
            return None
        left, right = split_mark(plain), split_mark(gold)
        if right.mark and not left.mark and plain.startswith(right.numeral):  # 5h for 5 hours
            rest = plain.removeprefix(right.numeral)
            if rest.isalpha() and canonical(rest) == canonical(right.mark):
                return True
        return same_marked(left, right, self.same_scalar)

    def _shape(self, plain: str, gold: str) -> bool | None:
        """The verdict where one of the answers is a list, interval, union or relation."""
        if gold_range := ranges.interval_of(gold):
            if plain_range := ranges.interval_of(plain):
                return key(plain_range[0]) == key(gold_range[0]) and self.same(plain_range[1], gold_range[1])
            name, value = forms.split_name(plain)
            if name is not None and key(name) != key(gold_range[0]):
                return False
            return forms.shape(value) is not None and self.same(value, gold_range[1])
        name, gold_name = forms.split_name(plain)[0], forms.split_name(gold)[0]
        gold_shape = items.shape_of(gold)
        plain_shape = items.shape_of(plain, prefer_list=isinstance(gold_shape, Items))
        if ranges.is_range(gold_shape) and (found := ranges.as_range(plain)):
            return self.same(found, gold)
        if isinstance(plain_shape, Union) and (found := ranges.as_range(gold)):
            return self.same(plain, found)
        if isinstance(gold_shape, Union) or isinstance(plain_shape, Union):
            return self._unions(plain, gold)
        if isinstance(gold_shape, Items) and isinstance(plain_shape, Items):
            if name and gold_name and not forms.same_name(name, gold_name):
                return False
            return items.same_items(plain_shape, gold_shape, self.same)
        return None

    def _unions(self, plain: str, gold: str) -> bool:
        (name, left), (gold_name, right) = forms.split_name(plain), forms.split_name(gold)
        if name and gold_name and not forms.same_name(name, gold_name):
            return False
        left = ranges.as_range(left) or left
        first, second = forms.shape(left), forms.shape(right)
        if isinstance(first, Union) and isinstance(second, Union):
            return items.matched(first.pieces, second.pieces, self.same)
        is_range = ranges.is_range(first) and ranges.is_range(second)
        return is_range and _math_verify(left, right)  # touching pieces, say

    def _named(self, plain: str, gold: str) -> bool | None:
        """`x = 5` says 5. A name on both sides must be the same name."""
        name, value = forms.split_name(plain)
        gold_name, gold_value = forms.split_name(gold)
        if name is not None and gold_name is not None:
            if not forms.same_name(name, gold_name):
                return None
            return self._is_consistent(plain) and self.same(value, gold_value)
        if gold_name is not None and len(forms.sides(plain)) == 1:
            return self.same(plain, gold_value)
        if name is not None and len(forms.sides(gold)) == 1:
            return self._is_consistent(plain) and self.same(value, gold)
        has_shape = items.shape_of(plain) is not None or items.shape_of(gold) is not None
        return False if has_shape and "\\begin" not in plain + gold else None

    def _is_consistent(self, plain: str) -> bool:
        """Whether the numbers in a chain `x = 2 + 3 = 5` agree."""
        *between, last = forms.sides(plain)[1:] or [plain]
        return all(_LETTER.search(side) or self.same(side, last) for side in between)

    def _equation(self, plain: str, gold: str) -> bool | None:
        """Equations that are no named values; a chain of equal numbers says its last."""
        left, right = forms.sides(plain), forms.sides(gold)
        if len(left) == len(right) == 2 and not _RELATION.search(plain + gold):
            if not _letters(plain) or not _letters(gold):
                return False
            return proportional(f"({left[0]})-({left[1]})", f"({right[0]})-({right[1]})")
        if len(left) > 1 and len(right) == 1:
            if len(left) == 2 and re.fullmatch("[a-zA-Z]", left[1]) and not _letters(left[0]):  # 5=x
                return self.same(left[0], gold)
            is_sum = all(not re.search(r"(?<![\\a-zA-Z])[a-zA-Z]", side) for side in left)
            return is_sum and all(self.same(side, left[-1]) for side in left[:-1]) and self.same(left[-1], gold)
        return False if len(left) != len(right) else None


def _math_verify(plain: str, gold: str) -> bool:
    """Math-Verify's verdict, unless the variables differ."""
    if _letters(plain) != _letters(gold) or bool(_RELATION.search(plain)) != bool(_RELATION.search(gold)):
        return False
    if _BRACES_AS_FACTOR.search(plain) or _BRACES_AS_FACTOR.search(gold):
        return False
    from math_verify import parse, verify  # 0.4 s to import, and plain numbers never need it

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    # Math-Verify's own timeouts rely on signals; our deadline kills the whole process instead.
    left, right = (parse(f"\\boxed{{{one.replace(';', ',')}}}", parsing_timeout=None) for one in (plain, gold))
    return bool(verify(right, left, timeout_seconds=None))


def _has_lone_letter(text: str, other: str) -> bool:
    """Whether a variable stands once in one answer and not at all in the other: it cannot cancel out."""
    if _BINDING.search(text):
        return False
    counts, known = Counter(_variables(text)), set(_variables(other))
    return any(count == 1 and name not in known for name, count in counts.items())


def _letters(text: str) -> set[str]:
    return set(_variables(text))


@lru_cache(maxsize=512)
def _variables(text: str) -> tuple[str, ...]:
    """Variables of an answer where they stand: single letters and Greek ones, with primes."""
    names = _LETTER.findall(_NO_LETTERS.sub(" ", text))
    return tuple(name for name in names if _VARIABLE.fullmatch(name) and name not in _NO_VARIABLES)
