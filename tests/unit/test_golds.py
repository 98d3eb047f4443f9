"""data/golds.py: the correct answer of a row, found in its column and without dress."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mel_ray.config.schema import SourceConfig
from mel_ray.data.columns import MissingError, WrongKindError
from mel_ray.data.golds import truth_of, undressed
from mel_ray.records.question import Truth
from mel_ray.rewards.judge import judge_answer
from mel_ray.rewards.registry import plain_form


def truth(row, **keys):
    return truth_of(row, SourceConfig(kind="table", **keys))


def gold(answer, **keys):
    return truth({"answer": answer}, **keys).answer


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"So $x=\boxed{5}$.", "5"),
        (r"Thus the solutions are $\boxed{-2}$ and $\boxed{1}$.", "-2, 1"),
        (r"We get \[x=\boxed{-2},\quad y=\boxed{\frac{1}{3}}.\]", r"-2, \frac{1}{3}"),
        (r"First $a=\boxed{3}$. Then the sum is $\boxed{7}$.", "7"),
        ("Case one: \\boxed{1}\n\nSo the answer is \\boxed{4}.", "4"),
        (r"It is $\boxed{15\frac{39}{40}},$ or $\boxed{\frac{639}{40}}$ inches.", r"\frac{639}{40}"),
        (r"It is $\boxed{\frac12}$, that is $\boxed{0.5}$.", "0.5"),
        (r"It is \boxed{\dfrac{\sqrt{2}}{2}}.", r"\dfrac{\sqrt{2}}{2}"),
        (r"It is \fbox{$\{1,2\}$}.", r"\{1,2\}"),
        (r"It is $\boxed{2},\boxed{3},\boxed{5}$.", "2, 3, 5"),
    ],
)
def test_the_boxes_of_the_final_statement_are_the_answer(solution, answer):
    assert gold(solution, answer_in_box=True) == answer


def test_without_a_box_or_a_match_there_is_no_answer():
    for row, keys in (
        ("none", {"answer_in_box": True}),
        (r"\boxed{1", {"answer_in_box": True}),
        (r"\boxed{}", {"answer_in_box": True}),
        ("none", {"answer_pattern": r"#### (.+)"}),
        ("#### ", {"answer_pattern": r"####(.*)"}),
        ("$$", {}),
        ("", {}),
        (None, {}),
        (float("nan"), {}),
        ([], {}),
        ([" "], {"answers": "any"}),
    ):
        with pytest.raises(MissingError):
            gold(row, **keys)


@pytest.mark.parametrize(
    ("dressed", "plain"),
    [
        ("$y=1-x$.", "y=1-x"), ("$69$,$84$", "69,84"), (r"\(x+1\)", "x+1"), (r"\[ 3 \]", "3"), ("$$5$$", "5"),
        ("$2$ and $3$", "2 and 3"), (r"$(-\infty, 0) \cup\{1\}$.", r"(-\infty, 0) \cup\{1\}"), ("3.", "3"),
        ("$5", "$5"), (r"\$5", r"\$5"), (r"$\$5$", r"\$5"), ("$221,$8$", "$221,$8$"), ("1, 2, ...", "1, 2, ..."),
        ("$a$, where $b$ is odd", "$a$, where $b$ is odd"), ("2:00 p.m.", "2:00 p.m."), ("0.5", "0.5"),
        (r"\left\{ x \right.", r"\left\{ x \right."), (" 7 \n", "7"),
    ],
)  # fmt: skip
def test_formula_marks_and_full_stops_are_removed_whole_or_not_at_all(dressed, plain):
    assert undressed(dressed) == plain


@given(st.text(alphabet="$.\\()[]{}ab1, ", max_size=20))
def test_dollars_go_in_pairs(text):
    assert (text.count("$") - undressed(text).count("$")) % 2 == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (70, "70"),
        (70.0, "70.0"),
        (1e-07, "0.0000001"),
        (1e22, "10000000000000000000000"),
        (-0.5, "-0.5"),
        ("007", "007"),
    ],
)
def test_numbers_are_written_plainly(value, text):
    assert gold(value) == text


@pytest.mark.parametrize("value", [True, False, {"a": 1}, [["1"]], [True], float("inf"), b"1"])
def test_a_value_of_the_wrong_kind_is_no_answer(value):
    with pytest.raises(WrongKindError):
        gold(value)


def test_a_list_of_answers_is_all_or_any_of_them():
    row = {"answer": ["$2$", 3.5, "3.5"]}
    assert truth(row) == Truth("2, 3.5")
    assert truth(row, answers="any") == Truth("2", alternatives=("3.5",))
    assert truth({"answer": ["1, 2, 3"]}) == truth({"answer": "1, 2, 3"}) == Truth("1, 2, 3")
    assert truth({"answer": json.dumps(["34"])}) == Truth("34")  # as JSON text
    assert truth({"answer": "[1, 2]"}) == Truth("[1, 2]")  # an interval
    assert truth({"answer": [r"\boxed{1}", r"\boxed{2}"]}, answers="any", answer_in_box=True).alternatives == ("2",)


def test_answers_may_be_nested_or_written_by_a_template():
    row = {"reward_model": json.dumps({"ground_truth": "34"}), "answer": 2}
    assert truth(row, answer="reward_model.ground_truth").answer == "34"
    assert truth(row, answer='{{ "ABCD"[answer] }}').answer == "C"


@pytest.mark.parametrize(
    ("tolerance", "value"),
    [("1e-1", 0.1), ("1e-1,1e-2", (0.1, 0.01)), (0.5, 0.5), (None, 0.0), ("", 0.0), (float("nan"), 0.0)],
)
def test_a_stated_error_is_a_tolerance(tolerance, value):
    assert truth({"answer": "4.2", "error": tolerance}, tolerance="error").tolerance == value
    assert truth({"answer": "4.2"}, tolerance="error").tolerance == 0.0


@pytest.mark.parametrize("tolerance", ["much", "-1", "inf", "1e-1,nan", True])
def test_a_bad_tolerance_is_an_error(tolerance):
    with pytest.raises(WrongKindError):
        truth({"answer": "4.2", "error": tolerance}, tolerance="error")


@pytest.mark.parametrize(
    "options",
    [
        ["red", "green", "blue"], {"A": "red", "B": "green", "C": "blue"}, {"C": "blue", "A": "red", "B": "green"},
        [{"label": "A", "text": "red"}, {"label": "B", "text": "green"}, {"label": "C", "text": "blue"}],
        {"text": ["red", "green", "blue"], "label": ["A", "B", "C"]}, '["red", "green", "blue"]',
        {"text": ["red", "green", "blue"], "label": ["1", "2", "3"]},
    ],
)  # fmt: skip
def test_options_in_every_form(options):
    found = truth({"answer": "3" if "1" in str(options) else "C", "choices": options}, options="choices")
    assert found == Truth("C", options=("red", "green", "blue"))


@pytest.mark.parametrize("answer", ["C", "(C)", "blue", "$blue$"])
def test_an_answer_is_a_letter_or_the_text_of_an_option(answer):
    assert truth({"answer": answer, "choices": ["red", "green", "blue"]}, options="choices").answer in (
        "C",
        "(C)",
        "blue",
    )


@pytest.mark.parametrize("answer", ["2", "D", "yellow"])
def test_an_answer_that_is_none_of_the_options_leaves_the_row_out(answer):
    with pytest.raises(MissingError, match="is none of the options"):
        truth({"answer": answer, "choices": ["red", "green", "blue"]}, options="choices")


@pytest.mark.parametrize("options", ["red", ["red"], ["red", True], ["a"] * 27, [{"label": "A", "text": "a"}] * 2, 3])
def test_options_that_are_none_are_errors(options):
    with pytest.raises(WrongKindError):
        truth({"answer": "A", "choices": options}, options="choices")


SAME = [
    ("70", "70.0"), ("70", "$70$"), ("1,234", "1234"), ("1{,}234", "1234"), ("6000!", "6000 !"), ("0.5", r"\frac12"),
    (r"(10^6)!", r"(10^{6})!"), (r"\frac{1}{2}", "1/2"), (r"\dfrac{1}{2}", r"\frac 1 2"), ("+3", "3"), ("-0", "0"),
    (r"15\frac{39}{40}", r"\frac{639}{40}"), (r"\left( 1, 2 \right)", "(1,2)"), (r"\sqrt2", r"\sqrt{2}"), ("007", "7"),
    ("{x}", "x"), (r"3\,000", "3000"), ("3.", "3"),
]  # fmt: skip
DIFFERENT = [
    ("70", "71"), (r"\frac{1}{23}", r"\frac{12}{3}"), ("1, 234", "1234"), ("1,2", "12"), ("-3", "3"),
    ("x^{12}", "x^12"),
    (r"\{1\}", "1"), ("5", "5%"), ("A", "a"), ("(1,2)", "(2,1)"), ("1/0", "2/0"), ("4210_7", "4210_9"), ("", "0"),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right"), SAME)
def test_answers_of_one_form(left, right):
    assert plain_form(left) == plain_form(right)


@pytest.mark.parametrize(("left", "right"), DIFFERENT)
def test_answers_of_different_forms(left, right):
    assert plain_form(left) != plain_form(right)


@given(st.fractions(), st.fractions())
def test_numbers_have_one_form_if_and_only_if_they_are_equal(left, right):
    assert (plain_form(str(left)) == plain_form(str(right))) == (left == right)


def test_integers_stored_as_decimals_are_judged_by_value():
    found = truth({"answer": 142.0})
    for response, outcome in ((r"\boxed{142}", "correct"), (r"\boxed{142.0}", "correct"), (r"\boxed{143}", "wrong")):
        assert judge_answer(response, found, ("boxed",))["outcome"] == outcome
