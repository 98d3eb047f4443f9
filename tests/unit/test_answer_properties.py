r"""Properties of judging: what keeps an answer right, what makes it wrong, and that no text whatever breaks the judge.

Expressions are written here from known values, so that each test knows the verdict without asking another judge.
"""

import re
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mel_ray.records.question import Truth
from mel_ray.rewards import values
from mel_ray.rewards.dress import key, undressed
from mel_ray.rewards.extract import MAX_ANSWER
from mel_ray.rewards.forms import shape, split
from mel_ray.rewards.judge import SHOWN, judge_answer
from mel_ray.rewards.limits import too_large
from mel_ray.rewards.numbers import read_number

REPEATABLE = settings(max_examples=80, derandomize=True, suppress_health_check=list(HealthCheck))

integers = st.integers(-9999, 9999)
positives = st.integers(2, 99)
names = st.sampled_from("abcnpqrstuvwxyz")


def fraction_text(value):
    sign = "-" if value < 0 else ""
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


fractions = st.builds(Fraction, integers, positives).filter(lambda value: value.denominator > 1).map(fraction_text)
decimals = st.builds(lambda whole, part: f"{whole}.{part:02d}", integers, st.integers(1, 99))
roots = st.builds(lambda times, under: f"{times}\\sqrt{{{under}}}", positives, st.sampled_from([2, 3, 5, 6, 7, 10, 11]))
angles = st.builds(lambda number: f"{number}^\\circ", positives)
percents = st.builds(lambda number: f"{number}\\%", positives)
multiples_of_pi = st.builds(lambda top, bottom: f"\\frac{{{top}\\pi}}{{{bottom}}}", positives, positives)
powers = st.builds(lambda base, exponent: f"{base}^{{{exponent}}}", st.integers(2, 12), st.integers(-60, 200))
scalars = st.one_of(integers.map(str), fractions, decimals, roots, multiples_of_pi, powers)
polynomials = st.builds(
    lambda a, b, c, x: f"{a}{x}^2+{b}{x}-{c}", positives, positives, positives, names.filter(lambda x: x not in "e")
)
in_base = st.builds(
    lambda base, digits: f"1{''.join(str(digit % base) for digit in digits)}_{{{base}}}",
    st.integers(3, 9),
    st.lists(st.integers(0, 8), min_size=2, max_size=5),
)
tuples = st.lists(scalars, min_size=2, max_size=4).map(lambda items: f"({','.join(items)})")
lists = st.lists(scalars, min_size=2, max_size=4, unique=True).map(", ".join)
sets = st.lists(scalars, min_size=1, max_size=4, unique=True).map(lambda items: f"\\{{{', '.join(items)}\\}}")
intervals = st.builds(
    lambda opening, low, size, closing: f"{opening}{low},{low + size}{closing}",
    st.sampled_from("(["), integers, positives, st.sampled_from(")]"),
)  # fmt: skip
columns = st.lists(scalars, min_size=2, max_size=4).map(
    lambda items: "\\begin{pmatrix}" + " \\\\ ".join(items) + "\\end{pmatrix}"
)
equations = st.builds(lambda name, value: f"{name}={value}", names, scalars)
words = st.sampled_from(["\\text{yes}", "\\text{Tuesday}", "\\text{an ellipse}", "\\text{(B)}", "none of them"])
units = st.builds(
    lambda n, unit: f"{n} \\text{{ {unit}}}", positives, st.sampled_from(["cm", "kg", "square meters", "m/s"])
)
golds = st.one_of(
    scalars, angles, percents, polynomials, in_base, tuples, lists, sets, intervals, columns, equations, words, units
)


def is_correct(answer, truth):
    return judge_answer(f"So it is $\\boxed{{{answer}}}$.", Truth(truth), ("boxed",))["outcome"] == "correct"


@REPEATABLE
@given(gold=golds)
def test_a_truth_judged_against_itself_is_correct(gold):
    assert is_correct(gold, gold)
    assert is_correct(f" {gold} .", gold)


DRESSES = [
    "{}.", "${}$", "\\({}\\)", " {} ", "\\displaystyle {}", "\\color{{red}}{{{}}}", "\\textcolor{{blue}}{{{}}}",
    "\\underline{{{}}}", "\\bm{{{}}}", "\\boldsymbol{{{}}}", "\\boxed{{{}}}", "{},", "\\, {} \\,", "\\quad {}", "= {}",
    "{{{}}}", "{}\\ ", "\\ensuremath{{{}}}", "\\textstyle {}", "$${}$$", "\\fbox{{{}}}",
]  # fmt: skip


@pytest.mark.parametrize("dress", DRESSES)
@settings(REPEATABLE, max_examples=20)
@given(gold=st.one_of(scalars, angles, percents, tuples, lists, sets, intervals, polynomials))
def test_the_same_value_in_another_dress_is_correct(dress, gold):
    assert is_correct(dress.format(gold), gold)


FONTS = ["\\textbf{{{}}}", "\\mathbf{{{}}}", "\\text{{{}}}", "\\mathrm{{{}}}", "\\textit{{{}}}", "\\mathsf{{{}}}"]


@pytest.mark.parametrize("font", FONTS)
@settings(REPEATABLE, max_examples=20)
@given(number=integers)
def test_a_number_in_another_font_is_that_number(font, number):
    assert is_correct(font.format(number), str(number))
    assert not is_correct(font.format(number + 1), str(number))


@REPEATABLE
@given(value=st.builds(Fraction, integers, st.sampled_from([1, 2, 4, 5, 8, 10, 20, 25])))
def test_a_rational_is_the_same_in_all_its_spellings(value):
    spellings = [fraction_text(value), fraction_text(value).replace("\\frac", "\\dfrac"), f"{value}", f"{float(value)}",
                 f"\\frac{{{3 * value.numerator}}}{{{3 * value.denominator}}}", f"{float(value):.6f}",
                 f"x = {value}"]  # fmt: skip
    if value.denominator == 1:
        spellings += [f"{int(value):,}", f"{int(value):,}".replace(",", "{,}"), f"{int(value):,}".replace(",", "\\,")]
    for spelling in spellings:
        assert is_correct(spelling, str(value)), spelling
        assert is_correct(str(value), spelling), spelling
        assert not is_correct(spelling, str(value + 1)), spelling


DIGITS = "0123456789"


def changed_digit(text, place):
    """Another digit at the place-th digit of a text; exponents and leading digits change too."""
    places = [n for n, character in enumerate(text) if character in DIGITS]
    where = places[place % len(places)]
    return text[:where] + DIGITS[(int(text[where]) + 1 + place % 8) % 10] + text[where + 1 :]


def has_a_zero_denominator(text):
    return "}{0" in text or "/0" in text


@REPEATABLE
@given(number=st.integers(0, 10**12), place=st.integers(0, 99))
def test_a_changed_digit_of_a_number_is_wrong(number, place):
    changed = changed_digit(str(number), place)
    assert is_correct(changed, str(number)) is (int(changed) == number)


@REPEATABLE
@given(gold=st.one_of(roots, multiples_of_pi, powers, in_base, polynomials, decimals), place=st.integers(0, 99))
def test_a_changed_digit_of_an_expression_is_wrong(gold, place):
    changed = changed_digit(gold, place)
    assume(not has_a_zero_denominator(changed) and not re.search(r"(?<![\d.])0\d", changed))
    if "_{" in gold:
        assert not is_correct(changed, gold)
        return
    assume(not _equal_at_many_digits(changed, gold))
    assert not is_correct(changed, gold)


def _equal_at_many_digits(one, other):
    """A second opinion, for the rare change that keeps the value (0 pi, or 1 as a base)."""
    import sympy

    def read(text):
        plain = (
            text.replace("\\sqrt", "sqrt").replace("^", "**").replace("\\pi", "*pi").replace("{", "(").replace("}", ")")
        )
        if text.startswith("\\frac"):
            top, bottom = text.removeprefix("\\frac{").removesuffix("}").split("}{")
            return f"({top})/({bottom})".replace("\\pi", "*pi")
        return plain

    texts = [re.sub(r"(\d)(sqrt|[a-z])", r"\1*\2", read(text)) for text in (one, other)]
    symbols = {letter: sympy.Symbol(letter) for letter in "abcnpqrstuvwxyz"}
    left, right = (sympy.sympify(text, locals=symbols) for text in texts)
    return sympy.expand(left - right) == 0


@REPEATABLE
@given(gold=in_base, other=st.integers(3, 9))
def test_another_base_is_wrong(gold, other):
    digits, _, base = gold.partition("_")
    assert is_correct(f"{digits}_{other}", gold) is (base == f"{{{other}}}")


@REPEATABLE
@given(gold=intervals)
def test_another_bracket_of_an_interval_is_wrong(gold):
    other = {"(": "[", "[": "(", ")": "]", "]": ")"}
    for changed in (other[gold[0]] + gold[1:], gold[:-1] + other[gold[-1]]):
        assert not is_correct(changed, gold)


@REPEATABLE
@given(low=integers, size=positives, is_open=st.booleans(), is_closed=st.booleans(), name=names)
def test_a_relation_is_its_interval_and_no_other(low, size, is_open, is_closed, name):
    high = low + size
    first, second = "<" if is_open else "\\le", "\\leq" if is_closed else "<"
    relation = f"{low} {first} {name} {second} {high}"
    right = f"{'(' if is_open else '['}{low},{high}{']' if is_closed else ')'}"
    for opening in "([":
        for closing in ")]":
            gold = f"{opening}{low},{high}{closing}"
            assert is_correct(relation, gold) is (gold == right)
    assert not is_correct(relation, str(high))


@REPEATABLE
@given(gold=st.one_of(scalars.filter(lambda text: text.strip("-0.") != ""), tuples, polynomials, multiples_of_pi))
def test_the_other_sign_is_wrong(gold):
    if gold.startswith("("):
        items = split(gold[1:-1])
        item = next((n for n, text in enumerate(items) if text.strip("-0.")), None)
        assume(item is not None)
        items[item] = items[item][1:] if items[item].startswith("-") else f"-{items[item]}"
        changed = f"({','.join(items)})"
    else:
        changed = gold[1:] if gold.startswith("-") else f"-({gold})"
    assume(gold not in ("0", "-0"))
    assert not is_correct(changed, gold)


@REPEATABLE
@given(gold=polynomials, other=names)
def test_another_variable_is_wrong(gold, other):
    name = next(character for character in gold if character.isalpha())
    assume(other != name)
    assert not is_correct(gold.replace(name, other), gold)
    assert not is_correct(gold.replace(name, other, 1), gold)
    assert not is_correct(gold.replace(name, "1"), gold)


@REPEATABLE
@given(items=st.lists(st.integers(-99, 99), min_size=2, max_size=5, unique=True), data=st.data())
def test_order_counts_in_tuples_and_not_in_lists_and_sets(items, data):
    shuffled = data.draw(st.permutations(items))
    text, other = ",".join(map(str, items)), ",".join(map(str, shuffled))
    assert is_correct(other, text)
    assert is_correct(f"\\{{{other}\\}}", f"\\{{{text}\\}}")
    assert is_correct(f"({other})", f"({text})") is (list(shuffled) == items)
    assert not is_correct(",".join(map(str, items[:-1])), text)
    assert not is_correct(f"{other},100", text)
    assert not is_correct(str(items[0]), text)


@REPEATABLE
@given(number=st.integers(1, 400), letter=names.filter(lambda name: name not in "e"))
def test_a_letter_after_a_number_is_a_factor(number, letter):
    assert not is_correct(f"{number}{letter}", str(number))
    assert not is_correct(str(number), f"{number}{letter}")
    assert is_correct(f"{number} \\text{{ cm}}", str(number))


@REPEATABLE
@given(number=st.integers(1, 1000))
def test_the_rule_of_percent_and_degrees(number):
    for sign in ("\\%", "%", "\\text{ percent}"):
        assert is_correct(f"{number}{sign}", str(number))
        assert is_correct(str(number), f"{number}{sign}")
        assert is_correct(f"{number}{sign}", fraction_text(Fraction(number, 100)))
        assert not is_correct(f"{number}{sign}", str(100 * number))
        assert not is_correct(f"0.{number:04d}{sign}", f"0.{number:04d}")
    for sign in ("^\\circ", "^{\\circ}", "°", "\\text{ degrees}"):
        assert is_correct(f"{number}{sign}", str(number))
        assert is_correct(str(number), f"{number}{sign}")
        assert is_correct(f"\\frac{{{number}\\pi}}{{180}}", f"{number}{sign}")
        assert not is_correct(str(number), f"\\frac{{{number}\\pi}}{{180}}")


@REPEATABLE
@given(a=st.integers(-13, 13).filter(bool), b=st.integers(1, 9), x=names.filter(lambda name: name not in "e"))
def test_a_pole_does_not_tell_two_spellings_apart(a, b, x):
    bottom = f"{x}{a:+d}"
    assert is_correct(f"1+\\frac{{{b}}}{{{bottom}}}", f"\\frac{{{x}{a + b:+d}}}{{{bottom}}}")
    assert is_correct(f"\\frac{{{x}^2-{a * a}}}{{{bottom}}}", f"{x}{-a:+d}")
    assert not is_correct(f"1+\\frac{{{b + 1}}}{{{bottom}}}", f"\\frac{{{x}{a + b:+d}}}{{{bottom}}}")
    assert not is_correct(f"1+\\frac{{{b}}}{{{bottom}}}", f"\\frac{{{x}{a + b:+d}}}{{{x}{a + 1:+d}}}")


GREEK = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "theta",
    "lambda",
    "mu",
    "rho",
    "sigma",
    "phi",
    "omega",
    "zeta",
    "eta",
    "xi",
]


@pytest.mark.parametrize("letter", GREEK)
def test_a_greek_letter_before_a_bracket_is_a_variable_like_any_other(letter):
    for text in ("(\\{}-3)", "2+(\\{}-3)", "x\\{}-3", "\\{}(x-3)", "(\\{}^2-3)y"):
        gold = text.format(letter)
        assert is_correct(gold, gold)
        assert not is_correct(gold.replace("3", "5"), gold), gold


# Pieces that commands, dress and shapes are made of; joined at random they are what no author writes.
SOUP = st.lists(
    st.sampled_from([
        "\\frac", "\\sqrt", "{", "}", "[", "]", "(", ")", "\\{", "\\}", "\\left", "\\right", "\\text{", "\\textbf{",
        "\\%",
        "%", "^", "_", "\\circ", "°", "\\pi", "x", "n", "e", "i", "d", "1", "2", "10", "1,000", "0.5", ".", ",", ";",
        " ", "=",
        "<", ">", "\\le", "\\ne", "\\in", "\\cup", "\\pm", "\\infty", "!", "|", "\\begin{pmatrix}", "\\end{pmatrix}",
        "&", "\\\\",
        "\\sin", "\\log", "\\boxed{", "\\boxed", "$", "\\color{red}", "\\underline{", "and", "or", "\\mathrm{", "cm",
        "B", "\\dots",
        "\\binom", "\\overline{", "\\mathbb{R}", "\\setminus", "~", "\\,", "\\", "'", "-", "+", "/", "*", ":",
        "\\operatorname{",
    ]),
    max_size=14,
).map("".join)  # fmt: skip
ANY_TEXT = st.text(max_size=60)


@settings(REPEATABLE, max_examples=400)
@given(text=st.one_of(SOUP, ANY_TEXT, golds))
def test_undressing_twice_is_undressing_once(text):
    once = undressed(text)
    assert undressed(once) == once
    assert key(key(once)) == key(once)


@settings(REPEATABLE, max_examples=300)
@given(text=st.one_of(SOUP, ANY_TEXT))
def test_reading_a_number_or_a_shape_of_any_text_never_raises(text):
    number, found = read_number(undressed(text)), shape(undressed(text))
    assert number is None or number.value.denominator > 0
    assert found is None or all(isinstance(one, str) for one in getattr(found, "items", None) or found.pieces)
    assert too_large(text) is None or too_large(text).endswith(("evaluate", "deeply"))


@pytest.mark.parametrize("truth", ["7", "x^2+1", "(3,4]", "1,2", "\\text{yes}", "B", "50\\%", "12_7"])
@settings(REPEATABLE, max_examples=60)
@given(text=st.one_of(SOUP, ANY_TEXT))
def test_any_text_in_a_box_gets_a_verdict(truth, text):
    verdict = judge_answer(f"\\boxed{{{text}}}", Truth(truth), ("boxed",))
    assert verdict["outcome"] in ("correct", "wrong", "no_answer", "error")
    assert verdict["reason"]
    assert len(verdict["extracted"] or "") <= SHOWN


@settings(REPEATABLE, max_examples=100)
@given(text=st.one_of(SOUP, ANY_TEXT), truth=st.one_of(SOUP, ANY_TEXT))
def test_any_response_to_any_truth_gets_a_verdict(text, truth):
    rules = ("boxed", "final_answer_is", "hashes", "choice_letter")
    assert judge_answer(text, Truth(truth), rules)["outcome"] in ("correct", "wrong", "no_answer", "error")


@pytest.mark.parametrize("piece", ["{", "}", "(", "1", "\\frac{1}{", "\\sqrt{", "^2", "1,", "\\text{", " ", "\\cup",
"=1", "x", "\\pm",
                                   "\\{", "-", "!", "\\left(", "\\textbf{", "a ", "\\boxed{", "_1", "1+",
                                   "\\color{red}", "|"])  # fmt: skip
def test_a_long_answer_of_one_piece_is_judged_within_bounds(piece):
    """No expression of more than the longest answer is looked at, and nothing large is evaluated."""
    text = piece * (4 * MAX_ANSWER // len(piece))
    for answer in (text, text[: MAX_ANSWER - 2]):
        verdict = judge_answer(f"\\boxed{{{answer}}}", Truth("7"), ("boxed",))
        assert verdict["outcome"] in ("wrong", "no_answer", "error")


@pytest.mark.parametrize(
    "answer", ["9^{9^{9}}", "(10^9)!", "2^{1000000}", "\\sum_{n=1}^{10^{12}} n", "\\binom{10^8}{50}"]
)
def test_what_is_too_large_is_never_evaluated(answer, monkeypatch):
    def never(*_):
        raise AssertionError("must not be evaluated")

    monkeypatch.setattr(values, "parsed", never)
    assert not is_correct(answer, "7")
    assert not is_correct(f"({answer})+1", "7")
    assert is_correct(answer, answer)
