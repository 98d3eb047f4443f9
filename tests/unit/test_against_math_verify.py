r"""Two thousand generated pairs judged by our rules and by Math-Verify called directly.

Wherever the two disagree, the pair must belong to a class below that says why, and who is right. A disagreement that
belongs to none fails the test and is shown.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from random import Random
from typing import NamedTuple

import pytest

from mel_ray.records.question import Truth
from mel_ray.rewards.judge import judge_answer, judge_directly

PAIRS = 2_000
SAME_SHARE = 0.45


class Pair(NamedTuple):
    """`kind` is the form both come from; `same` is what the generator knows."""

    kind: str
    answer: str
    truth: str
    same: bool


Spellings = list[str]


def fraction(value: Fraction) -> str:
    sign = "-" if value < 0 else ""
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def number(rng: Random) -> tuple[object, Spellings]:
    value = Fraction(rng.randint(-60, 60), rng.choice([1, 1, 2, 4, 5, 8]))
    found = [fraction(value), fraction(value).replace("\\frac", "\\dfrac"), f"{float(value):g}", f"{float(value):.4f}"]
    if value.denominator == 1:
        found += [str(value), f"+{value}" if value > 0 else str(value), f"{value}."]
    return value, [f"{one}" for one in found]


def dressed(rng: Random) -> tuple[object, Spellings]:
    value = rng.randint(2, 99)
    return value, [f"{value}", f"\\textbf{{{value}}}", f"\\text{{{value}}}", f"\\mathrm{{{value}}}", f"${value}$",
                   f"\\color{{red}}{{{value}}}", f"\\underline{{{value}}}", f"\\bm{{{value}}}", f"0{value}",
                   f"\\textbf{{(C)}}\\ {value}", f"\\boxed{{{value}}}", f"{value}\\,", f"x={value}"]  # fmt: skip


def grouped(rng: Random) -> tuple[object, Spellings]:
    value = rng.randint(1_000, 99_999)
    text = f"{value:,}"
    return value, [str(value), text, text.replace(",", "{,}"), text.replace(",", "\\,"), text.replace(",", "\\ "),
                   f"\\${text}"]  # fmt: skip


def percent(rng: Random) -> tuple[object, Spellings]:
    value = rng.randint(2, 99)
    return value, [f"{value}\\%", f"{value}%", f"{value} \\text{{ percent}}", f"{value}"]


def degrees(rng: Random) -> tuple[object, Spellings]:
    value = rng.randint(2, 89)
    return value, [f"{value}^\\circ", f"{value}^{{\\circ}}", f"{value}", f"{value}°", f"{value} \\text{{ degrees}}"]


def unit(rng: Random) -> tuple[object, Spellings]:
    value, name = rng.randint(2, 99), rng.choice(["cm", "kg", "meters", "apples"])
    return (value, name), [
        f"{value} \\text{{ {name}}}",
        f"{value}\\text{{ {name}}}",
        f"{value}\\,\\mathrm{{{name}}}",
        f"{value}",
    ]


def surd(rng: Random) -> tuple[object, Spellings]:
    times, under = rng.randint(1, 6), rng.choice([2, 3, 5, 7])
    return times * times * under, [f"{times}\\sqrt{{{under}}}", f"\\sqrt{{{times * times * under}}}",
                                   f"\\frac{{{times * under}}}{{\\sqrt{{{under}}}}}"]  # fmt: skip


def of_pi(rng: Random) -> tuple[object, Spellings]:
    value = Fraction(rng.randint(1, 12), rng.randint(1, 6))
    top, bottom = value.numerator, value.denominator
    return value, [f"\\frac{{{top}\\pi}}{{{bottom}}}", f"\\frac{{{top}}}{{{bottom}}}\\pi", f"{top}\\pi/{bottom}"]


def power(rng: Random) -> tuple[object, Spellings]:
    base, exponent = rng.choice([2, 3, 5]), rng.choice([2, 3, 6, -4, 30, -98, -99, 99])
    found = [f"{base}^{{{exponent}}}", f"{base}\\cdot {base}^{{{exponent - 1}}}"]
    return (base, exponent), found


def bare_list(rng: Random) -> tuple[object, Spellings]:
    items = rng.sample(range(-20, 20), rng.randint(2, 4))
    other = rng.sample(items, len(items))
    in_braces = f"\\{{{', '.join(map(str, other))}\\}}"
    return frozenset(items), [", ".join(map(str, items)), ",".join(map(str, other)), in_braces]


def small_set(rng: Random) -> tuple[object, Spellings]:
    items = rng.sample(range(-20, 20), rng.randint(2, 4))
    other = rng.sample(items, len(items))
    return frozenset(items), [
        f"\\{{{', '.join(map(str, items))}\\}}",
        f"\\left\\{{{','.join(map(str, other))}\\right\\}}",
    ]


def interval(rng: Random) -> tuple[object, Spellings]:
    low = rng.randint(-9, 9)
    high = low + rng.randint(1, 9)
    opening, closing = rng.choice("(["), rng.choice(")]")
    less = {"(": "<", "[": "\\le", ")": "<", "]": "\\leq"}
    return (opening, low, high, closing), [
        f"{opening}{low},{high}{closing}", f"\\left{opening}{low}, {high}\\right{closing}",
        f"x \\in {opening}{low},{high}{closing}",
        f"{low} {less[opening]} x {less[closing]} {high}",
    ]  # fmt: skip


def pair_of_numbers(rng: Random) -> tuple[object, Spellings]:
    items = tuple(rng.randint(-9, 9) for _ in range(rng.randint(2, 3)))
    return items, [f"({','.join(map(str, items))})", f"\\left({', '.join(map(str, items))}\\right)"]


def column(rng: Random) -> tuple[object, Spellings]:
    items = tuple(rng.randint(-9, 9) for _ in range(3))
    rows = " \\\\ ".join(map(str, items))
    return items, [f"\\begin{{pmatrix}}{rows}\\end{{pmatrix}}", f"\\begin{{bmatrix}}{rows}\\end{{bmatrix}}",
                   f"({','.join(map(str, items))})"]  # fmt: skip


def matrix(rng: Random) -> tuple[object, Spellings]:
    a, b, c, d = (rng.randint(-5, 5) for _ in range(4))
    cells = f"{a} & {b} \\\\ {c} & {d}"
    tight = cells.replace(" ", "")
    return (a, b, c, d), [f"\\begin{{pmatrix}}{cells}\\end{{pmatrix}}", f"\\begin{{bmatrix}}{tight}\\end{{bmatrix}}"]


def polynomial(rng: Random) -> tuple[object, Spellings]:
    a, b, x = rng.randint(1, 6), rng.randint(1, 6), rng.choice("xynt")
    a, b = min(a, b), max(a, b)
    return (a, b, x), [f"({x}+{a})({x}+{b})", f"{x}^2+{a + b}{x}+{a * b}", f"{a * b}+{x}^{{2}}+{a + b}{x}"]


def quotient(rng: Random) -> tuple[object, Spellings]:
    a, x = rng.randint(2, 7), rng.choice("xynt")
    return (a, x), [f"\\frac{{{x}}}{{{x}+{a}}}", f"1-\\frac{{{a}}}{{{x}+{a}}}", f"{x}/({x}+{a})"]


def equation(rng: Random) -> tuple[object, Spellings]:
    a, b = rng.randint(2, 9), rng.randint(1, 9)
    return (a, b), [f"y={a}x+{b}", f"y={b}+{a}x", f"y-{a}x={b}", f"{a}x-y+{b}=0"]


def named(rng: Random) -> tuple[object, Spellings]:
    name, value = rng.choice("xyn"), rng.randint(-9, 9)
    return (name, value), [f"{name}={value}", f"{name} = {value}.0"]


def text(rng: Random) -> tuple[object, Spellings]:
    word = rng.choice(["yes", "no", "Monday", "odd", "east", "even"])
    return word, [f"\\text{{{word}}}", word, f"\\mathrm{{{word}}}", f"\\textbf{{{word}}}"]


def letter(rng: Random) -> tuple[object, Spellings]:
    which = rng.choice("ABCDE")
    return which, [which, f"({which})", f"\\text{{({which})}}", f"\\textbf{{({which})}}", f"{which}."]


def based(rng: Random) -> tuple[object, Spellings]:
    base = rng.randint(5, 9)
    digits = "".join(str(rng.randint(1, 4)) for _ in range(3))
    return (digits, base), [f"{digits}_{base}", f"{digits}_{{{base}}}", f"{digits}_{{\\text{{{NAMES[base]}}}}}"]


NAMES = {5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}


def letter_product(rng: Random) -> tuple[object, Spellings]:
    a, x = rng.randint(2, 9), rng.choice("mnsx")
    return (a, x), [f"{a}{x}", f"{a}\\cdot {x}", f"{x}\\cdot {a}"]


FORMS: list[Callable[[Random], tuple[object, Spellings]]] = [
    number, dressed, grouped, percent, degrees, unit, surd, of_pi, power, bare_list, small_set, interval,
    pair_of_numbers, column, matrix, polynomial, quotient, equation, named, text, letter, based, letter_product,
]  # fmt: skip


def generated(count: int) -> list[Pair]:
    """Pairs of the same value in two spellings, of two values in one form, and a few of two forms."""
    rng, pairs = Random(20), []
    while len(pairs) < count:
        form = FORMS[len(pairs) % len(FORMS)]
        value, spellings = form(rng)
        if rng.random() < SAME_SHARE:
            pairs.append(Pair(form.__name__, rng.choice(spellings), rng.choice(spellings), True))
        elif rng.random() < 0.15:  # another form
            _, others = rng.choice([one for one in FORMS if one is not form])(rng)
            pairs.append(Pair(f"{form.__name__} and another", rng.choice(others), rng.choice(spellings), False))
        else:
            other, others = form(rng)
            if other != value:
                pairs.append(Pair(form.__name__, rng.choice(others), rng.choice(spellings), False))
    return pairs


def has(pattern: str) -> Callable[[Pair], bool]:
    return lambda pair: bool(re.search(pattern, pair.answer) or re.search(pattern, pair.truth))


class Reason(NamedTuple):
    """A class of disagreements: what it covers, and our verdict in it."""

    covers: Callable[[Pair], bool]
    ours: bool
    why: str


def both(pattern: str, kind: str) -> Callable[[Pair], bool]:
    return lambda pair: pair.kind == kind and has(pattern)(pair)


REASONS: list[Reason] = [
    Reason(both(r"\\text\{", "based"), True, "a base in words"),
    Reason(has(r"%|percent"), True, "a percent sign in a box: Math-Verify reads a string or a hundredth"),
    Reason(has(r"°"), True, "the degree sign as a character: Math-Verify reads nothing after it"),
    Reason(has(r"\\textbf\{\(C\)\}\\ \d"), True, "a choice's letter before its value: Math-Verify multiplies both"),
    Reason(has(r"\\(?:color|underline|bm|boxed|textbf|text|mathrm)\{"), True, "fonts and colours of a number"),
    Reason(has(r"\d\\[, ]\d{3}"), True, "a thin space between thousands: Math-Verify multiplies what is around it"),
    Reason(has(r"\d\.$"), True, "a full stop after a number: Math-Verify reads a string"),
    Reason(has(r"[A-E]\.$"), True, "a full stop after a choice's letter"),
    Reason(both(r"matrix", "column"), True, "a tuple for a column vector"),
    Reason(both(r"x \\le", "interval"), True, "a relation for its interval, where the truth is one"),
    Reason(both(r"<", "interval"), True, "a relation for its interval, where the truth is one"),
    Reason(both(r"t", "polynomial"), True, "t is a variable; Math-Verify drops it as a unit"),
    Reason(both(r"[ms]", "letter_product"), True, "m and s are variables; Math-Verify drops them as units"),
    Reason(both(r"\^\{-", "power"), False, "tiny values are different: Math-Verify compares rounded ones"),
    Reason(lambda pair: pair.kind == "unit", False, "other units of a number: Math-Verify drops them"),
]


def reason_for(pair: Pair, ours: bool) -> Reason | None:
    """The class of a disagreement in which we are right; being wrong has no reason."""
    return next((one for one in REASONS if one.ours == ours == pair.same and one.covers(pair)), None)


@pytest.fixture(scope="module")
def verdicts() -> list[tuple[Pair, bool, bool]]:
    found = []
    for pair in generated(PAIRS):
        response, truth = f"So it is $\\boxed{{{pair.answer}}}$.", Truth(pair.truth)
        ours = judge_answer(response, truth, ("boxed",))["outcome"] == "correct"
        found.append((pair, ours, judge_directly(response, truth)["outcome"] == "correct"))
    return found


def test_every_disagreement_with_math_verify_has_a_reason(verdicts):
    unexplained = [(pair, ours) for pair, ours, theirs in verdicts if ours != theirs and not reason_for(pair, ours)]
    assert not unexplained, "\n".join(f"{pair} ours: {ours}" for pair, ours in unexplained)


def test_every_reason_is_used(verdicts):
    reasons = [reason_for(pair, ours) for pair, ours, theirs in verdicts if ours != theirs]
    assert {reason.why for reason in reasons if reason} == {reason.why for reason in REASONS}


def test_the_generator_knows_the_verdicts_and_ours_agree(verdicts):
    """Where both are of one form, no credit of ours is false, and none is missing."""
    wrong = [(pair, ours) for pair, ours, _ in verdicts if " and " not in pair.kind and ours is not pair.same]
    assert not wrong, "\n".join(f"{pair} ours: {ours}" for pair, ours in wrong)


def test_math_verify_and_we_mostly_agree(verdicts):
    assert sum(ours == theirs for _, ours, theirs in verdicts) > 0.7 * PAIRS
