r"""Which part of a response is its answer: boxes in all their spellings, several boxes, and the other rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mel_ray.records.question import Truth
from mel_ray.rewards.extract import MAX_ANSWER, MAX_RESPONSE, extract_answer, final_boxes, last_boxed
from mel_ray.rewards.judge import judge_answer
from mel_ray.rewards.math_answer import is_list
from mel_ray.rewards.registry import RULES


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("so \\boxed{12}.", "12"),
        ("\\boxed{1} and then \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{3} but \\boxed{4", "3"),
        ("\\boxed{3", None),
        ("no box", None),
        ("", None),
        ("\\boxed", None),
        ("\\boxed ", None),
        ("\\boxed{" + "{" * 50_000, None),
        ("\\boxed{" + "1" * 10**6 + "}", None),
        ("x" * 10**6 + "\\boxed{5}", "5"),
        ("\\boxed{5}" + "x" * MAX_RESPONSE, None),
        ("\\boxed 5", "5"),
        ("\\boxed 5.", "5"),
        ("$\\boxed 5$ is it", "5"),
        ("\\boxed 12 eggs", "12"),
        ("\\boxed -3", "-3"),
        ("\\boxed \\frac{1}{2}", "\\frac{1}{2}"),
        ("\\boxed {5}", "5"),
        ("\\boxed  {5}", "5"),
        ("\\boxed\n{5}", "5"),
        ("\\fbox 5", "5"),
        ("\\fbox{5}", "5"),
        ("\\fbox {5}", "5"),
        ("\\boxed{ 5 }", "5"),
        ("\\boxed{}", None),
        ("\\boxed{ }", None),
        ("\\boxed{5} and \\boxed{}", "5"),
        ("\\boxed{5}, then \\boxed{  } and \\fbox{}", "5"),
        ("\\boxed{4} or \\fbox{5}", "5"),
        ("\\fbox{4} or \\boxed{5}", "5"),
        ("\\boxedness{7}", None),
        ("\\framebox{7}", None),
        ("\\boxed{a \\} b}", "a \\} b"),
    ],
)
def test_the_last_complete_box_that_holds_something_is_the_answer(response, answer):
    assert last_boxed(response) == answer


@pytest.mark.parametrize(
    ("response", "boxes"),
    [
        ("$\\boxed{1}$ and $\\boxed{2}$", ["1", "2"]),
        ("\\boxed{1}, \\boxed{2}", ["1", "2"]),
        ("\\boxed{1}\\boxed{2}", ["1", "2"]),
        ("\\boxed{1}\n\\boxed{2}", ["1", "2"]),
        ("\\[\\boxed{1}, \\quad \\boxed{2}, \\quad \\boxed{3}\\]", ["1", "2", "3"]),
        ("x = \\boxed{1} or x = \\boxed{-1}.", ["1", "-1"]),
        ("\\boxed{1}, \\boxed{2}, \\boxed{1}", ["1", "2"]),
        ("First \\boxed{7}. Then we find the rest: \\boxed{1}, \\boxed{2}.", ["1", "2"]),
        ("So \\boxed{7}\n\nWait, no.\n\n\\boxed{1}, \\boxed{2}", ["1", "2"]),
        ("\\boxed{7} " + "and so on " * 40 + "\\boxed{1}", ["1"]),
        ("\\boxed{1}, \\boxed{}", ["1"]),
        ("nothing", []),
    ],
)
def test_the_boxes_of_the_final_statement_are_its_answers(response, boxes):
    assert final_boxes(response) == boxes


@pytest.mark.parametrize(
    ("response", "truth", "outcome"),
    [
        ("\\boxed{1}, \\boxed{2}", "1,2", "correct"),
        ("\\boxed{2} and \\boxed{1}", "1,2", "correct"),
        ("\\boxed{1} or \\boxed{2}", "\\{1,2\\}", "correct"),
        ("\\boxed{1,2}", "1,2", "correct"),
        ("First \\boxed{5}. Hence all solutions are \\boxed{1}, \\boxed{2}.", "1,2", "correct"),
        ("$(x,y)=\\boxed{(1,2)}$ and $\\boxed{(3,4)}$", "(1,2),(3,4)", "correct"),
        ("\\boxed{3} and \\boxed{-3}", "\\pm 3", "correct"),
        ("\\boxed{1}, \\boxed{3}", "1,2", "wrong"),
        ("\\boxed{1}, \\boxed{2}, \\boxed{3}", "1,2", "wrong"),
        ("\\boxed{2}", "1,2", "wrong"),
        ("\\boxed{1}", "1,2", "wrong"),
        ("\\boxed{1}. So the last one is different. \\boxed{2}", "1,2", "wrong"),
        ("\\boxed{1}, \\boxed{2}", "2", "correct"),
        ("\\boxed{1}, \\boxed{2}", "1", "wrong"),
        ("\\boxed{1}, \\boxed{2}", "(1,2)", "wrong"),
        ("\\boxed{1}, \\boxed{2}", "12", "wrong"),
        ("\\boxed{2}, \\boxed{}", "2", "correct"),
        ("\\boxed{}", "0", "no_answer"),
        ("I do not know", "5", "no_answer"),
        ("The answer is 5", "5", "no_answer"),
        ("\\boxed 5", "5", "correct"),
        ("\\fbox 5", "5", "correct"),
        ("\\boxed 5", "50", "wrong"),
        ("\\boxed{\\boxed{5}}", "5", "correct"),
        ("\\boxed{\\fbox{5}}", "6", "wrong"),
    ],
)
def test_several_boxes_are_a_list_where_the_truth_is_one(response, truth, outcome):
    assert judge_answer(response, Truth(truth), ("boxed",))["outcome"] == outcome


@pytest.mark.parametrize(
    "truth", ["1,2", "\\{1,2\\}", "1, 2 \\text{ and } 3", "(1,2),(3,4)", "\\pm 2", "x=1, x=2", "$8$,$4$"]
)
def test_what_is_a_list(truth):
    assert is_list(truth)


@pytest.mark.parametrize(
    "truth", ["12", "1,000", "(1,2)", "[0,1]", "f(x,y)", "\\frac{1}{2}", "x+y", "\\max(1,2)", "3 \\text{ cm}"]
)
def test_what_is_none(truth):
    assert not is_list(truth)


FINAL = ("final_answer_is",)


@pytest.mark.parametrize(
    ("rules", "response", "answer"),
    [
        (("boxed",), "The answer is 5", None),
        (("boxed", *FINAL), "The final answer is $5$.", "5"),
        (("boxed", *FINAL), "answer: 4 \\boxed{5}", "5"),
        (FINAL, "The answer is 4. The final answer is 5.", "5"),
        (FINAL, "**Final Answer**\n5", "5"),
        (FINAL, "**Final Answer**\n\n5", "5"),
        (FINAL, "**Final Answer:**\n$\\frac{1}{2}$", "\\frac{1}{2}"),
        (FINAL, "### Final Answer\n\\[\n42\n\\]", "42"),
        (FINAL, "## Answer\n\n**17**", "17"),
        (FINAL, "The final answer is: **17**", "17"),
        (FINAL, "The answer is \\boxed{7}.", "7"),
        (FINAL, "answer = 12 eggs", "12 eggs"),
        (FINAL, "The answers vary.", None),
        (FINAL, "we answer nothing", None),
        (("hashes",), "2 + 3 = 5\n#### 5", "5"),
        (("hashes",), "#### 42 dollars", "42 dollars"),
        (("hashes",), "#### 42%", "42%"),
        (("hashes",), "#### $42$", "42"),
        (("hashes",), "#### 42.", "42"),
        (("hashes",), "#### 42\n\n#### Conclusion\nDone.", "42"),
        (("hashes",), "#### Step one\n\n#### 42\n\n#### Final remarks", "42"),
        (("hashes",), "#### 41\n#### 42", "42"),
        (("hashes",), "#### -1,200", "-1,200"),
        (("hashes",), "### 42", None),
        (("hashes",), "####\n", None),
        (("choice_letter",), "So it is (C).", "C"),
        (("choice_letter",), "**B**", "B"),
        (("choice_letter",), "A dog barks", None),
        (("choice_letter",), "CABLE", None),
        (("hashes", "choice_letter"), "none here", None),
        (("boxed", "hashes"), "#### 4\n\\boxed{5}", "5"),
        (("hashes", "boxed"), "#### 4\n\\boxed{5}", "4"),
    ],
)  # fmt: skip
def test_the_other_rules(rules, response, answer):
    assert extract_answer(response, rules) == answer


@pytest.mark.parametrize(
    ("rules", "response", "truth", "is_correct"),
    [
        (("hashes",), "#### 42 dollars", "42", True),
        (("hashes",), "#### 43 dollars", "42", False),
        (("hashes",), "#### 42%", "42", True),
        (("hashes",), "#### 0.42%", "42", False),
        (("hashes",), "#### $1,200", "1200", True),
        (("hashes",), "#### 42\n#### Summary\nIt is 43.", "42", True),
        (("hashes",), "#### Summary of 42", "42", False),
        (FINAL, "**Final Answer**\n$42$", "42", True),
        (FINAL, "**Final Answer**\n$43$", "42", False),
        (FINAL, "The final answer is 42 eggs.", "42", True),
        (FINAL, "The answer is 4 times 42.", "42", False),
        (("choice_letter",), "The right one is (B).", "B", True),
        (("choice_letter",), "The right one is (B).", "C", False),
    ],
)
def test_what_the_other_rules_find_is_judged(rules, response, truth, is_correct):
    assert (judge_answer(response, Truth(truth), rules)["outcome"] == "correct") is is_correct


@pytest.mark.parametrize("rule", RULES)
@given(response=st.text(max_size=200))
def test_a_rule_finds_a_part_of_the_response_or_nothing(rule, response):
    found = RULES[rule](response)
    assert found is None or found.replace(" ", "") in response.replace("$", "").replace(" ", "")


PIECES = st.sampled_from(
    ["\\boxed", "\\fbox", "{", "}", "{5}", " ", "\n", "\\", "$", "####", "Answer:", "**", "7", "x", "\\["]
)


@pytest.mark.parametrize("rule", RULES)
@given(pieces=st.lists(PIECES, max_size=40))
def test_an_answer_is_short_and_not_empty(rule, pieces):
    response = "".join(pieces)
    found = RULES[rule](response)
    assert found is None or 0 < len(found.strip()) <= MAX_ANSWER
    assert all(box.strip() for box in final_boxes(response))
