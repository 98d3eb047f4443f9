"""evaluation/: scores, their uncertainty, and the tables."""

import numpy as np
import pytest

from mel_ray.evaluation.scores import paired_difference, pass_at_k, standard_error, summarise_results
from mel_ray.evaluation.table import Evaluation, comparison_text, table_text
from mel_ray.records.evaluation import Answered, QuestionResult
from mel_ray.records.verdict import Outcome
from tests.unit.builders import STOP, exploration


def answered(correct: int, count: int, length: int = 10, outcome: Outcome = Outcome.WRONG) -> Answered:
    outcomes = (Outcome.CORRECT,) * correct + (outcome,) * (count - correct)
    return Answered(outcomes, (length,) * count, (STOP,) * count)


def results(counts: list[int], greedy: list[int]) -> list[QuestionResult]:
    return [QuestionResult(str(i), answered(g, 1), answered(c, 8)) for i, (c, g) in enumerate(zip(counts, greedy))]


def test_pass_at_k():
    assert pass_at_k(8, 2, 4) == pytest.approx(0.7857143)  # 1 - C(6,4)/C(8,4) = 1 - 15/70
    assert pass_at_k(8, 0, 8) == 0
    assert pass_at_k(8, 1, 8) == 1
    with pytest.raises(ValueError):
        pass_at_k(4, 1, 5)


def test_the_answers_of_a_judged_group():
    found = Answered.of(exploration((2, 4, 3), "cwt"))
    assert found.outcomes == (Outcome.CORRECT, Outcome.WRONG, Outcome.TIMEOUT)
    assert (found.lengths, found.count, found.correct) == ((2, 4, 3), 3, 1)
    with pytest.raises(ValueError):
        Answered((Outcome.CORRECT,), (1, 2), (STOP,))


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
