r"""The fast reader of common expressions: it reads as the full parser does or not at all."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sympy import I, N, Rational, nan, oo, pi, sqrt, zoo
from sympy.abc import x

from mel_ray.rewards import constant_terms, values
from mel_ray.rewards.constant_terms import MAX_CHARACTERS, MAX_DEPTH, MAX_EXPONENT, read_terms

POINTS = (Rational(13717, 10000), Rational(-17320, 10000), Rational(5))
MANY_NINES = "9" * 15

leaves = st.sampled_from(["2", "3", "12", "0", "1.25", ".5", "x", "y", "i", "e", "\\pi", "a", "I", "d"])


def written(parts):
    return st.one_of(
        st.builds("{}{}{}".format, parts, st.sampled_from(["+", "-", "*", "/", "", "", "\\cdot "]), parts),
        st.builds("{}^{{{}}}".format, parts, parts),
        st.builds("{}^{}".format, parts, st.sampled_from("23x")),
        st.builds("\\frac{{{}}}{{{}}}".format, parts, parts),
        st.builds("\\sqrt{{{}}}".format, parts),
        st.builds("\\sqrt[{}]{{{}}}".format, st.sampled_from("23n"), parts),
        st.builds("({})".format, parts),
        st.builds("-{}".format, parts),
        st.builds("({})({})".format, parts, parts),
    )


expressions = st.recursive(leaves, written, max_leaves=6)
constants = st.recursive(leaves.filter(lambda leaf: leaf not in "xyaIdi"), written, max_leaves=6)


@given(st.one_of(expressions, constants))
@settings(max_examples=600, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_it_reads_as_the_full_parser_does_or_not_at_all(text):
    is_complex = "i" in text.replace("\\pi", "")
    found = read_terms(text, is_complex)
    if found is None:
        return
    expected = values.parsed_in_full(text, is_complex)
    assert expected is not None
    assert not expected.has(oo, -oo, zoo, nan)
    assert found.free_symbols <= expected.free_symbols
    for point in POINTS:
        put = {symbol: point + number for number, symbol in enumerate(sorted(expected.free_symbols, key=str))}
        first, second = N(found.subs(put), 50), N(expected.subs(put), 50)
        if second.is_number and not second.has(oo, -oo, zoo, nan):
            assert abs(first - second) <= 1e-40 * max(1, abs(first), abs(second))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\\frac{\\sqrt{5}}{5}", sqrt(5) / 5),
        ("97\\pi/24", 97 * pi / 24),
        ("3+2i", 3 + 2 * I),
        ("-2^2", -4),
        ("2(3+4)", 14),
        ("(x+1)(x+2)", (x + 1) * (x + 2)),
        ("1.25\\cdot2^{-1}", Rational(5, 8)),
        ("\\sqrt[3]{2}\\pi ", 2 ** Rational(1, 3) * pi),
    ],
)
def test_common_answers_need_no_other_parser(text, expected):
    found = read_terms(text, "i" in text.replace("\\pi", ""))
    assert found is not None
    assert found.subs(dict.fromkeys(found.free_symbols, x)).equals(expected)


@pytest.mark.parametrize(
    "text",
    ["1/2x", "1/2\\pi", "1/2/3", "2\\frac{1}{2}", "x(3)", "x^2(3)", "\\pi(3)", "ln2", "dx", "I", "x2",
     "2^3^2", "2^{x}", "\\frac{1}{0}", "0^{0}", "1/(2-2)", "\\sqrt{x-x}", "1,234", "1.2.3", "2--3",
     "2\\{3\\}", "x!", "\\sin x", "(2", "2)", "", "+", "\\frac{1}", "\\frac12", "\\sqrt2", "\\sqrt[n]{2}",
     "\\sqrt[1]{2}", "2^10.5", "1.5^2", "x_1", "²", "٣"],
)  # fmt: skip
def test_what_is_ambiguous_or_unknown_is_left_to_the_full_parser(text):
    assert read_terms(text, is_complex=False) is None


@pytest.mark.parametrize(
    "text",
    [
        "9" * 16,
        f"2^{{{MAX_EXPONENT + 1}}}",
        "((2^9)^9)^9",
        "2^9*3^9",
        "9^{9^{9^9}}",
        f"\\sqrt{{2^{MAX_EXPONENT}}}",
        "(" * MAX_DEPTH + "2" + ")" * MAX_DEPTH,
        "(" * 10_000,
        "-" * MAX_CHARACTERS + "1",
        "1+" * MAX_CHARACTERS + "1",
        "10!",
        "\\frac{" * 20,
    ],
)
def test_what_may_be_costly_is_left_to_the_full_parser(text):
    assert read_terms(text, is_complex=False) is None


def test_a_long_text_is_not_even_cut_into_tokens(monkeypatch):
    monkeypatch.setattr(constant_terms, "_TOKEN", None)
    assert read_terms("1" * (MAX_CHARACTERS + 1), is_complex=False) is None


def test_numbers_stay_small_however_they_are_combined():
    largest = read_terms(f"{MANY_NINES}^{{{MAX_EXPONENT}}}*{MANY_NINES}*{MANY_NINES}", is_complex=False)
    assert largest.p.bit_length() < 50 * (MAX_EXPONENT + 2)
