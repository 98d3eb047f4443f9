"""Scores, their uncertainty, the tables, and the inspection of a dataset."""

import json

import numpy as np
import pytest

from mel_ray.config.load import compose_config
from mel_ray.cli.inspect import answer_kind, contaminated, grams, inspect, page, text
from mel_ray.data.datasets import Question
from mel_ray.evaluation.table import Evaluation, comparison_text, table_text
from mel_ray.records import Outcome
from mel_ray.records.evaluation import Answered, QuestionResult
from mel_ray.evaluation.scores import paired_difference, standard_error, summarise_results


def answered(correct: int, count: int, length: int = 10, outcome: Outcome = Outcome.WRONG) -> Answered:
    outcomes = (Outcome.CORRECT,) * correct + (outcome,) * (count - correct)
    return Answered(outcomes, (length,) * count, ("stop",) * count)


def results(counts: list[int], greedy: list[int]) -> list[QuestionResult]:
    return [QuestionResult(str(i), answered(g, 1), answered(c, 8)) for i, (c, g) in enumerate(zip(counts, greedy))]


def test_scores_of_known_counts():
    scores = summarise_results(results([2, 8, 0], [1, 1, 0]), 8, (4, 8))
    assert scores["pass@1"] == pytest.approx(2 / 3)
    assert scores["avg@8"] == pytest.approx(10 / 24)
    assert scores["pass@4"] == pytest.approx((0.7857143 + 1) / 3, abs=1e-6)
    assert scores["pass@8"] == pytest.approx(2 / 3)
    assert scores["truncated"] == scores["no_answer"] == 0
    assert scores["tokens"] == 270


def test_the_bootstrap_error_is_that_of_a_mean():
    values = [0.0, 1.0] * 50
    assert standard_error(values) == pytest.approx(np.std(values) / 10, rel=0.1)
    assert standard_error([1.0]) == 0
    assert standard_error([1.0, 1.0]) == 0


def test_paired_differences_see_what_unpaired_ones_cannot():
    rng = np.random.default_rng(0)
    first = rng.random(200)
    mean, low, high = paired_difference(first, first + 0.02)
    assert mean == pytest.approx(0.02)
    assert 0.019 < low <= high < 0.021
    mean, low, high = paired_difference(first, rng.permutation(first))
    assert low < 0 < high
    with pytest.raises(ValueError):
        paired_difference([1.0], [1.0, 2.0])


def test_tables():
    base = Evaluation("base", "aime", tuple(results([0, 1, 2, 0] * 10, [0, 0, 1, 0] * 10)), 8, (8,), 1.0)
    tuned = Evaluation("tuned", "aime", tuple(results([8, 8, 8, 0] * 10, [1, 1, 1, 0] * 10)), 8, (8,), 1.0)
    table = table_text([base, tuned])
    assert "25.00" in table
    assert "75.00" in table
    comparison = comparison_text([base, tuned])
    assert "+50.00" in comparison
    assert comparison.count("*") == 3


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


def test_contamination_is_found_by_13_grams():
    held = [Question("Let a b c d e f g h i j k l m be letters", "1"), Question("short one", "1")]
    train = [Question("We say: a b c d e f g h i j k l m, so", "2"), Question("a b c d e f g h i j k l", "2"),
             Question("Short ONE?", "2"), Question("a short one", "2")]  # fmt: skip
    assert [q.question for q in contaminated(train, held)] == [train[0].question, train[2].question]
    assert grams("") == set()


def test_inspection_counts_and_draws(tmp_path):
    rows = [{"question": f"What is {n % 4} + 1?", "answer": str(n % 4 + 1)} for n in range(10)]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = inspect(compose_config(["data=table", f"data.train.path={tmp_path}/q.jsonl"]))
    assert (found.rows, len(found.questions), found.unit) == (10, 4, "tokens")
    assert "rows 10, questions 4, repeated 6" in text(found)
    assert "<table>" in page(found)
