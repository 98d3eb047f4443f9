r"""Cases made from golds: the same value in another dress, and another value with nearly the same text.

What is made here is right or wrong by construction. Where a change might keep the value (a digit within a rounding
bracket, the lower number of a binomial), no case is made.
"""

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from random import Random

from benchmarks.verifier_sets import Case, Row, boxed

DRESS, FORM, BOXES = "another dress", "another form", "several boxes"
OTHER, CHANGED = "another gold", "changed gold"

_PLAIN = re.compile(r"-?\d+(?:\.\d+)?")
_INTEGER = re.compile(r"-?\d+")
_THOUSANDS = re.compile(r"-?[1-9]\d{3,}")
_FRACTION = re.compile(r"(-?)\\[dt]?frac\{(-?\d+)\}\{(\d+)\}|(-?\d+)/(\d+)")
_RADICAL = re.compile(r"(\d+)\s*\\sqrt\s*\{(\d+)\}")
_CHAIN = re.compile(r"([(\[])([^()\[\],]+),([^()\[\],]+)([)\]])")
_SCALAR = re.compile(r"(?:[\d\s+*/^{}().a-z-]|\\(?:[dt]?frac|sqrt|pi|cdot)(?![a-zA-Z]))+")
_PERCENT = re.compile(r"(-?\d+(?:\.\d+)?)\s*\\?%")
_DEGREES = re.compile(r"(-?\d+(?:\.\d+)?)\s*\^\s*\{?\\circ\}?")
_TEXT = re.compile(r"\\(?:text|mbox|mathrm|operatorname)\s*\{[^{}]*\}(?:\^\{?-?\d\}?)?|\\begin\{[^{}]*\}|\\[a-zA-Z]+")
_MAY_KEEP_VALUE = re.compile(
    r"\\[dt]?binom|\\l?floor|\\l?ceil|\\[lr](?:floor|ceil)|!|[01]\s*\^|=\s*0$|\bmod\b|[×*]\s*0"
)
_DUMMY = re.compile(
    r"\\(?:sum|prod|int|in|text|mathrm|mbox|quad|mathbb|operatorname|angle|begin)(?![a-zA-Z])|[=<>]|\\[lg]e"
)
_INTERVAL = re.compile(r"[(\[][^()\[\]]*,[^()\[\]]*[)\]]")


def number(text: str) -> Fraction | None:
    """The value of a plain integer, decimal or fraction, read apart from the verifiers."""
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text.strip().removeprefix("\\$"))
    if _PLAIN.fullmatch(text):
        return Fraction(text)
    if (match := _FRACTION.fullmatch(text)) and int(match[3] or match[5]):
        value = Fraction(int(match[2] or match[4]), int(match[3] or match[5]))
        return -value if match[1] else value
    return None


def dressed(rows: Sequence[Row], rng: Random) -> Iterator[Case]:
    """Golds in one of the dresses they may wear; percent and degree signs, units and thousands in all of them."""
    for row in rows:
        always, any_of = _dresses(row)
        chosen = [*always, rng.choice(any_of)] if any_of else always
        for one in chosen:
            yield Case(DRESS, one if "\\boxed" in one or "\\fbox" in one else boxed(one), row.truth, True)


def _dresses(row: Row) -> tuple[list[str], list[str]]:
    """Dresses to be tried always, and those of which one is enough."""
    gold = row.gold
    always, any_of = (
        [],
        [rf"\displaystyle {gold}", rf"{gold}\,.", rf"\underline{{{gold}}}", rf"\color{{red}}{{{gold}}}"],
    )
    if match := _PERCENT.fullmatch(gold):
        always += [match[1], rf"{match[1]}\%", f"{match[1]}%", rf"{match[1]} \text{{ percent}}"]
    if match := _DEGREES.fullmatch(gold):
        value = match[1]
        always += [value, rf"{value}^\circ", rf"{value}^{{\circ}}", f"{value}°", rf"{value} \text{{ degrees}}"]
    if row.unit:
        unit = row.unit if row.unit.startswith("^") else "\\%" if row.unit == "%" else rf"\text{{ {row.unit}}}"
        always += [f"{gold}{unit}"] if number(gold) is not None else []
    if _THOUSANDS.fullmatch(gold):
        grouped = f"{int(gold):,}"
        always += [grouped, grouped.replace(",", "{,}"), grouped.replace(",", r"\,"), grouped.replace(",", r",\!")]
    if _PLAIN.fullmatch(gold):
        any_of += [rf"\textbf{{{gold}}}", rf"\text{{{gold}}}", rf"\mathbf{{{gold}}}", f"x = {gold}", rf"\bm{{{gold}}}"]
        any_of += [f"The answer is \\fbox{{{gold}}}.", f"So \\boxed {gold}", f"So \\boxed {{{gold}}}, \\boxed{{}}"]
        any_of += [rf"\textbf{{(C)}}\ {gold}"]
    if _INTEGER.fullmatch(gold):
        any_of += [f"{gold}.0", f"{gold}."]
    if "\\frac{" in gold:
        any_of += [gold.replace("\\frac", "\\dfrac"), gold.replace("\\frac", "\\tfrac")]
    if "(" in gold and "\\left" not in gold and gold.count("(") == gold.count(")") and "]" not in gold:
        any_of += [gold.replace("(", "\\left(").replace(")", "\\right)"), gold.replace("(", "\\big(")]
        any_of[-1] = any_of[-1].replace(")", "\\big)")
    return always, any_of


def reformed(rows: Sequence[Row], rng: Random) -> Iterator[Case]:
    """Golds as another expression of the same value."""
    for row in rows:
        for one in _forms(row, rng):
            yield Case(FORM, boxed(one), row.truth, True)


def _forms(row: Row, rng: Random) -> Iterator[str]:
    """Other ways to write a gold: as a sum, a fraction that is not reduced, a decimal, a root, a relation, a set."""
    gold, value, factor = row.gold, number(row.gold), rng.randint(2, 9)
    if match := re.fullmatch(_PERCENT, gold):
        yield str(Fraction(match[1]) / 100)
    elif match := re.fullmatch(_DEGREES, gold):
        yield rf"\frac{{{match[1]}\pi}}{{180}}"
    elif match := _RADICAL.fullmatch(gold):
        yield rf"\sqrt{{{int(match[1]) ** 2 * int(match[2])}}}"
        yield rf"{match[1]} \cdot {match[2]}^{{1/2}}"
    elif value is not None:
        yield rf"\frac{{{value.numerator * factor}}}{{{value.denominator * factor}}}"
        yield rf"{value.numerator - factor * value.denominator}/{value.denominator} + {factor}"
        if 10**6 % value.denominator == 0 and value.denominator > 1:
            yield f"{value.numerator * (10**6 // value.denominator) / 10**6:.6f}".rstrip("0")
    elif (match := _CHAIN.fullmatch(gold.replace("\\left", "").replace("\\right", ""))) and _is_interval(gold):
        low, high = [r"\le" if end in "[]" else "<" for end in (match[1], match[4])]
        if "\\infty" not in gold:
            yield f"{match[2]} {low} x {high} {match[3]}"
        elif "\\infty" not in match[2]:
            yield f"x {low.replace('le', 'ge').replace('<', '>')} {match[2]}"
    elif row.is_list and "=" not in gold and "where" not in gold and "$" not in gold:
        yield rf"\{{{gold}\}}"
    elif _SCALAR.fullmatch(gold) and not re.search(r"(?<!\\)[a-z]{2}|[ei]", re.sub(r"\\[a-z]+", "", gold)):
        yield rf"\frac{{{factor}({gold})}}{{{factor}}}"
        yield f"({gold}) + {factor} - {factor}"


def _is_interval(gold: str) -> bool:
    return "\\infty" in gold or "[" in gold or "]" in gold


def in_boxes(rows: Sequence[Row], rng: Random) -> Iterator[Case]:
    """Lists in a box for each item and in another order; wrong are those that lack an item."""
    for row in rows:
        items = list(dict.fromkeys(_items(row.gold)))
        if (
            not row.is_list
            or len(items) < 2
            or "where" in row.gold
            or any(item.count("(") != item.count(")") for item in items)
        ):
            continue
        boxes = [f"$\\boxed{{{item}}}$" for item in items]
        yield Case(BOXES, f"The solutions are {', '.join(boxes[:-1])} and {boxes[-1]}.", row.truth, True)
        shuffled = rng.sample(items, len(items))
        yield Case(BOXES, boxed(", ".join(shuffled)), row.truth, True)
        missing = rng.randrange(len(items))
        kept = boxes[:missing] + boxes[missing + 1 :]
        yield Case(BOXES, f"The solutions are {', '.join(kept)}.", row.truth, False)


def _items(gold: str) -> list[str]:
    """Items between commas outside brackets."""
    items, depth, start = [], 0, 0
    for place, character in enumerate(gold):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            items.append(gold[start:place].strip())
            start = place + 1
    return [*items, gold[start:].strip()]


def against_others(rows: Sequence[Row], rng: Random) -> Iterator[Case]:
    """Responses against another question's gold; an expression is compared with another expression too.

    Two golds that are not both plain numbers may be the same value: those cases are not sure.
    """
    expressions = [row for row in rows if number(row.gold) is None]
    for row in rows:
        value = number(row.gold)
        for other in (rng.choice(rows), *(rng.sample(expressions, min(3, len(expressions))) if value is None else ())):
            are_numbers = value is not None and number(other.gold) is not None
            if (are_numbers and value == number(other.gold)) or _bare(row.gold) == _bare(other.gold):
                continue
            yield Case(OTHER, row.response, other.truth, False, row.rules, is_sure=are_numbers)


def _bare(text: str) -> list[str]:
    """The items of a gold in any order, without what means nothing."""
    text = re.sub(r"\\left|\\right|[\s{}$]|\\[!;]|^[a-zA-Z]\s*=", "", text.replace("dfrac", "frac")).lstrip("0")
    return sorted(text.split(","))


def changed(rows: Sequence[Row], rng: Random) -> Iterator[Case]:
    """Golds with another digit, sign, bracket or variable, with a variable or a term more; the changes of expressions
    are the harder ones, so they get three digits each."""
    for row in rows:
        made = [_sign(row.gold), _bracket(row.gold, rng), _variable(row.gold, rng)]
        made += [_digit(row.gold, rng) for _ in range(1 if number(row.gold) is not None else 3)]
        if _INTEGER.fullmatch(row.gold) and number(row.gold):
            made.append(f"{row.gold}n")
        if _SCALAR.fullmatch(row.gold):
            made.append(f"{row.gold} + 1")
        values = {number(gold) for gold in (row.gold, *row.alternatives)} - {None}
        for answer in dict.fromkeys(filter(None, made)):
            if number(answer) not in values and answer not in (row.gold, *row.alternatives):
                yield Case(CHANGED, boxed(answer), row.truth, False)


def _digit(gold: str, rng: Random) -> str | None:
    hidden = {place for match in _TEXT.finditer(gold) for place in range(*match.span())}
    places = [place for place, character in enumerate(gold) if character.isdecimal() and place not in hidden]
    if not places or _MAY_KEEP_VALUE.search(gold):
        return None
    place = rng.choice(places)
    digit = rng.choice([one for one in "123456789" if one != gold[place]])
    return gold[:place] + digit + gold[place + 1 :]


def _sign(gold: str) -> str | None:
    match = re.match(r"((?:x\s*=\s*)?(?:\\left)?[(\[]?\s*)(-?)\s*(?=[1-9]|\\[dt]?frac|\\sqrt|\\pi)", gold)
    if (
        match is None
        or "\\pm" in gold
        or _MAY_KEEP_VALUE.search(gold)
        or re.match(r"\s*\\[dt]?frac\s*\{?0", gold[match.end() :])
    ):
        return None
    return match[1] + ("" if match[2] else "-") + gold[match.end() :]


def _bracket(gold: str, rng: Random) -> str | None:
    """Another bracket at a finite end of an interval."""
    text = gold.replace("\\left", "").replace("\\right", "")
    match = _INTERVAL.search(text)
    if match is None or not (_is_interval(text) or "\\cup" in text) or "x" in match[0]:
        return None
    low, high = match[0][1:-1].split(",")[0], match[0][1:-1].split(",")[-1]
    ends = [place for place, end in ((match.start(), low), (match.end() - 1, high)) if "\\infty" not in end]
    if not ends or match[0].count(",") != 1:
        return None
    place = rng.choice(ends)
    return text[:place] + {"(": "[", "[": "(", ")": "]", "]": ")"}[text[place]] + text[place + 1 :]


def _variable(gold: str, rng: Random) -> str | None:
    """Another name for one variable of an expression."""
    if _DUMMY.search(gold) or "_" in gold:
        return None
    letters = sorted(set(re.findall(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", " ", gold))) - set("eidABCDEFGHIJ"))
    if not letters or re.search(r"[a-zA-Z]{3}", re.sub(r"\\[a-zA-Z]+", " ", gold)):
        return None
    letter, other = rng.choice(letters), rng.choice([one for one in "wzqv" if one not in letters])
    return re.sub(rf"(\\[a-zA-Z]+)|{letter}", lambda match: match[1] or other, gold)
