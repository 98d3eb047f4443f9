"""data/repetitions.py: repeated questions, and questions with different answers."""

import json

import pytest

from mel_ray.config.schema import BenchmarkSourceConfig, SourceConfig, TrainSourceConfig
from mel_ray.data.datasets import load
from mel_ray.records.problem import ConfigError
from tests.unit.public_data import public

ROWS = [("Q1", "1"), ("Q2", "70"), ("Q1", "2"), ("Q2", "70.0"), (" Q2\n", "$70$"), ("Q3", "x"), ("Q1", "1")]


def loaded(tmp_path, kind=TrainSourceConfig, **keys):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"question": text, "answer": answer}) for text, answer in ROWS))
    return load(kind(kind="table", path=str(file), **keys))


def pairs(found):
    return [(one.text, one.truth.answer) for one in found.questions]


def test_by_default_training_questions_with_different_answers_are_dropped_and_said(tmp_path):
    found = loaded(tmp_path)
    assert pairs(found) == [("Q2", "70"), ("Q3", "x")]
    assert (found.rows, found.repeated) == (7, 3)
    assert [(one.text, one.answers) for one in found.conflicts] == [("Q1", ("1", "2"))]
    (note,) = found.notes
    assert "1 question stands there with different answers, e.g. 'Q1' with 1 and 2; all were dropped" in note


def test_they_may_be_kept_each_with_an_id_of_its_own(tmp_path):
    found = loaded(tmp_path, conflicts="keep")
    assert pairs(found) == [("Q1", "1"), ("Q2", "70"), ("Q1", "2"), ("Q3", "x")]
    assert len({one.question_id for one in found.questions}) == 4
    assert "kept with every answer" in found.notes[0]


def test_or_be_an_error(tmp_path):
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, conflicts="error")
    assert "data.train.conflicts=error: 1 question stands there with different answers" in str(caught.value)


def test_without_deduplication_all_rows_are_kept(tmp_path):
    found = loaded(tmp_path, deduplicate=False)
    assert pairs(found) == [("Q2", "70"), ("Q2", "70.0"), ("Q2", "70"), ("Q3", "x")]
    assert found.repeated == 0 and len({one.question_id for one in found.questions}) == 4


def test_a_benchmark_is_asked_as_it_stands(tmp_path):
    found = loaded(tmp_path, BenchmarkSourceConfig)
    assert len(found.questions) == len(ROWS) and len({one.question_id for one in found.questions}) == len(ROWS)
    assert len(loaded(tmp_path, BenchmarkSourceConfig, deduplicate=True).questions) == 4


def test_nothing_left_is_a_sentence(tmp_path):
    (tmp_path / "two.jsonl").write_text('{"question": "Q", "answer": "1"}\n{"question": "Q", "answer": "2"}')
    with pytest.raises(ConfigError, match="nothing is left: 1 question stands there with different answers"):
        load(SourceConfig(kind="table", path=str(tmp_path / "two.jsonl")))


def test_the_conflicts_of_public_data():
    dapo = SourceConfig(
        kind="table", path=str(public("dapo/dapo_math_17k.parquet")), question="prompt",
        answer="reward_model.ground_truth",
    )  # fmt: skip
    assert len(load(dapo).conflicts) == 12
    svamp = SourceConfig(kind="table", path=str(public("svamp/SVAMP.json")), question="Question", answer="Answer")
    assert len(load(svamp).conflicts) == 246
