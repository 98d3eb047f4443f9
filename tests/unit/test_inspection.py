"""data/inspection.py: what a dataset holds, and whether benchmarks have leaked into it."""

import json

import pytest

from mel_ray.config.load import compose_config
from mel_ray.data.inspection import answer_kind, contaminated, grams, inspect, page, text
from mel_ray.records.question import Question, Truth


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("1,234", "integer"), ("-3", "integer"), ("0.5", "decimal"), ("\\frac{1}{2}", "fraction"),
        ("C", "choice letter"),
        ("(1, 2)", "list, tuple, set or interval"), ("2, 3", "list, tuple, set or interval"), ("\\text{even}", "text"),
        ("2\\sqrt{3}", "expression"), ("x+1", "expression"),
    ],
)  # fmt: skip
def test_answer_kinds(answer, kind):
    assert answer_kind(answer) == kind


def asked(text):
    return Question(text, Truth("1"))


def test_contamination_is_found_by_13_grams():
    held = [asked("Let a b c d e f g h i j k l m be letters"), asked("short one")]
    train = [asked(text) for text in ("We say: a b c d e f g h i j k l m, so", "a b c d e f g h i j k l", "Short ONE?",
                                      "a short one")]  # fmt: skip
    assert [q.text for q in contaminated(train, held)] == [train[0].text, train[2].text]
    assert grams("") == set()


def test_inspection_counts_and_draws(tmp_path):
    rows = [{"question": f"What is {n % 4} + 1?", "answer": str(n % 4 + 1)} for n in range(10)]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = inspect(compose_config(["data=table", f"data.train.path={tmp_path}/q.jsonl"]))
    assert (found.rows, len(found.questions), found.unit) == (10, 4, "tokens")
    assert "rows 10, questions 4, repeated 6" in text(found)
    assert "<table>" in page(found)
