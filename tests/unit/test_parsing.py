"""mel/parsing.py: malformed and hostile experiences, and the leak check."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mel_ray.config.templates import load_template
from mel_ray.mel.parsing import ParseFailure, leaks_answer, parse_experience
from mel_ray.records.experience import Experience

TINY, PAPER = load_template("tiny"), load_template("paper")
GOOD = "Bifurcation: Step 2.\nCritique: It did this.\nHeuristic: If it rains, then stay in."
GOOD_PAPER = """## 1. Failure resolution path and error pattern
Bifurcation point: the line "so x > 0", where the sign is assumed.
The sign was never established.

## 2. Success factors
The second attempt split the cases.

## 3. First-person reflection
I assumed what I should have shown.

## 4. Subject heuristics
- If a quantity is divided out, then check that it cannot be zero.
* When dealing with absolute values, strictly verify both cases.
"""


def test_well_formed_experiences():
    assert parse_experience(GOOD, TINY) == Experience("Step 2.", "It did this.", ("If it rains, then stay in.",))
    parsed = parse_experience(GOOD_PAPER, PAPER)
    assert parsed.bifurcation == 'the line "so x > 0", where the sign is assumed.'
    assert "never established" in parsed.critique
    assert "split the cases" in parsed.critique
    assert "I assumed" in parsed.critique
    assert parsed.heuristics == (
        "If a quantity is divided out, then check that it cannot be zero.",
        "When dealing with absolute values, strictly verify both cases.",
    )


MALFORMED = {
    "missing section": GOOD.replace("Critique: It did this.\n", ""),
    "repeated section": GOOD + "\nHeuristic: If x, then y.",
    "out of order": "Critique: a\nBifurcation: b\nHeuristic: If x, then y.",
    "empty section": GOOD.replace("It did this.", "  "),
    "text before": "Sure!\n" + GOOD,
    "not a rule": GOOD.replace("then stay in.", ""),
    "two rules in a line": GOOD + " If x, then y.",
    "nothing": "",
    "far too long": GOOD + "x" * 50_000,
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_experiences_are_rejected(text):
    with pytest.raises(ParseFailure):
        parse_experience(text, TINY)


def test_paper_template_wants_a_named_bifurcation_point():
    with pytest.raises(ParseFailure):
        parse_experience(GOOD_PAPER.replace("Bifurcation point:", "Somewhere"), PAPER)


@given(st.text(max_size=400))
def test_any_text_is_parsed_or_rejected(text):
    for template in (TINY, PAPER):
        try:
            parse_experience(text, template)
        except ParseFailure as failure:
            assert str(failure)


@pytest.mark.parametrize(
    ("answer", "rule", "leaks"),
    [
        ("12", "If in doubt, then answer 12.", True),
        ("12", "If 112 or 1.2 or 12th or 12.5 appear, then check.", False),
        ("7", "If weeks turn into days, then take 7 per week.", True),
        ("\\frac{1}{2}", "If halves, then it is \\frac{1}{2}.", True),
        ("x + 1", "If so, then write X + 1.", True),
        ("", "If a, then b.", False),
    ],
)
def test_leak_check(answer, rule, leaks):
    assert leaks_answer(Experience("s", "The answer is 12", (rule,)), answer) is leaks
