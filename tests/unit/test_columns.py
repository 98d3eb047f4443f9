"""A custom reward gets the dataset's row: from a file through question, prompt and the real child process."""

import datetime
import json

import pyarrow as pa
import pyarrow.parquet as pq

from mel_ray.config.schema import ModelConfig, SourceConfig
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.datasets import load
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.data.prompts import render_prompts
from mel_ray.records.verdict import Outcome
from mel_ray.rewards.functions import Judgement
from mel_ray.rewards.verifier import Verifier, VerifierSettings

ROW = {"question": "Name a prime.", "answer": "7", "also_right": ["2", "3", "5"], "level": 4, "share": 0.5,
       "source": {"book": "primes"}, "added": datetime.date(2026, 2, 10), "raw": b"\x00", "hint": None}  # fmt: skip


def any_of_the_row(responses):
    """A custom reward for the test: it reads one column, and says what it got of all of them."""
    return [
        Judgement(
            one.response in (one.answer, *one.columns["also_right"]),
            reward=one.columns["level"] / 10,
            reason=json.dumps({name: value for name, value in one.columns.items() if name != "also_right"}),
        )
        for one in responses
    ]


def prompts_of(path):
    source = SourceConfig(kind="table", path=str(path))
    tokenizer = ChatTokenizer(EMBEDDED, ModelConfig(path="embedded"))
    return render_prompts(load(source).questions, tokenizer, "{{ question }}", 64).prompts


def test_a_custom_reward_reads_a_column_of_the_dataset(tmp_path):
    pq.write_table(pa.Table.from_pylist([ROW]), tmp_path / "rows.parquet")
    (prompt,) = prompts_of(tmp_path)
    assert prompt.question.columns == ROW
    with Verifier(VerifierSettings(20.0, function="tests.unit.test_columns:any_of_the_row")) as verifier:
        responses = ["5", "9"]
        found = verifier.judge_all(responses, prompt.question)
    assert [verdict.outcome for verdict in found] == [Outcome.CORRECT, Outcome.WRONG]
    assert [verdict.reward for verdict in found] == [0.4, 0.4]
    # what JSON does not know comes as text
    assert json.loads(found[0].reason) == {
        "question": "Name a prime.", "answer": "7", "level": 4, "share": 0.5, "source": {"book": "primes"},
        "added": "2026-02-10", "raw": "b'\\x00'", "hint": None,
    }  # fmt: skip


def test_questions_of_the_embedded_world_have_their_family_as_columns():
    (question,) = load(SourceConfig(kind="world", count=1)).questions
    assert question.columns == {
        "family": "product_in_sum",
        "world_rule": "If a sum holds a product, then multiply first.",
        "band": 0.6,
    }
