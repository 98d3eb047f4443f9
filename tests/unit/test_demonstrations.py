"""Supervised fine-tuning: solutions from a dataset's column to rows with weight one."""

import asyncio
import json

import numpy as np
import pytest

from mel_ray.config.schema import ModelConfig, SourceConfig
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.datasets import load
from mel_ray.data.demonstrations import Demonstrations, demonstration
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.data.prompts import render_prompts
from mel_ray.policy.rows import Lessons, decide, rows_of, score, weigh
from mel_ray.policy.sequences import train_sequence
from mel_ray.records.ledger import TrajectoryFate
from mel_ray.records.problem import ConfigError
from mel_ray.records.trajectory import FinishReason, Sampling
from tests.unit.builders import FakeStore, config_of
from tests.unit.tokenizer_folders import TEMPLATES, byte_level, write_folder

TOKENIZER = ChatTokenizer(EMBEDDED, ModelConfig(path="embedded"))
GSM8K = {"question": "How many apples?", "answer": "There are <<2+3=5>>5 apples.\n#### 5"}
SPOKEN = "{% for part in answer.split('<<') %}{{ part.split('>>')[-1] }}{% endfor %}"


def source(tmp_path, rows, **options):
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return SourceConfig(kind="table", path=str(tmp_path / "rows.jsonl"), **options)


def loaded(tmp_path, rows=(GSM8K,), **options):
    return load(source(tmp_path, rows, **options)).questions


def sampling(max_tokens=64):
    return Sampling((0,), 1.0, max_tokens)


@pytest.mark.parametrize(
    ("solution", "text"),
    [
        (None, ""),
        ("answer", GSM8K["answer"]),
        (SPOKEN, "There are 5 apples.\n#### 5"),
        ("{{ answer[:9] }}", "There are"),
    ],
)
def test_a_solution_is_a_column_or_a_template_over_the_row(tmp_path, solution, text):
    (question,) = loaded(tmp_path, solution=solution)
    assert question.solution == text


def test_rows_without_a_solution_are_dropped_and_counted(tmp_path):
    rows = [GSM8K | {"work": "w"}, {"question": "b", "answer": "2"}, {"question": "c", "answer": "3", "work": " "}]
    found = load(source(tmp_path, rows, solution="work"))
    assert [one.solution for one in found.questions] == ["w"]
    assert len(found.dropped) == 2
    with pytest.raises(ConfigError, match="solution"):
        load(source(tmp_path, rows, solution="{{ work | nonsense }}"))


def test_a_solution_is_tokenised_as_it_would_be_sampled(tmp_path):
    (prompt,) = render_prompts(loaded(tmp_path, solution="answer"), TOKENIZER, "{{ question }}", 64).prompts
    shown = demonstration(prompt, TOKENIZER, 64)
    assert TOKENIZER.decode(shown.token_ids) == GSM8K["answer"]
    assert shown.token_ids[-1] == TOKENIZER.end_id
    assert shown.finish_reason is FinishReason.STOP
    assert np.isnan(shown.logprobs).all()
    cut = demonstration(prompt, TOKENIZER, 5)
    assert (len(cut.token_ids), cut.finish_reason) == (5, FinishReason.LENGTH)


@pytest.mark.parametrize(("template", "end"), [("chatml", "<|im_end|>"), ("llama", "</s>")])
def test_a_solution_ends_as_the_chat_template_ends_a_turn(tmp_path, template, end):
    settings = {"eos_token": "</s>", "chat_template": TEMPLATES[template]}
    folder = write_folder(tmp_path, byte_level(), **settings)
    tokenizer = ChatTokenizer(folder, ModelConfig(path=str(folder), stop_tokens=("<|im_end|>",)))
    assert tokenizer.token_text(tokenizer.end_id) == end


def test_a_solution_ends_with_the_end_of_sequence_whatever_else_may_end_a_completion():
    start = ChatTokenizer(EMBEDDED, ModelConfig(path="embedded", stop_tokens=("<|endoftext|>", "<|im_start|>")))
    assert len(start.stop_ids) == 3
    assert start.end_id == TOKENIZER.end_id == TOKENIZER.stop_ids[0] != start.stop_ids[0]


@pytest.mark.parametrize("max_tokens", [64, 8])
def test_every_solution_is_a_row_with_weight_one_and_one_that_is_cut_is_left_out(tmp_path, max_tokens):
    rows = [GSM8K, {"question": "How many pears?", "answer": "Two."}]
    prompts = render_prompts(loaded(tmp_path, rows, solution="answer"), TOKENIZER, "{{ question }}", 64).prompts
    store = FakeStore()
    shown = Demonstrations(TOKENIZER, store)

    async def explored():
        return [await shown.judge(await shown.generate(prompt, sampling(max_tokens))) for prompt in prompts]

    config = config_of("algorithm=sft")
    decided = decide(score(rows_of(asyncio.run(explored())), config.algorithm, max_tokens), config.algorithm)
    ((*trained,),) = weigh(decided, Lessons(), config)
    kept = 2 if max_tokens == 64 else 1
    assert [row.fate for row in decided].count(TrajectoryFate.TRUNCATED) == 2 - kept
    assert len(trained) == kept
    for row in trained:
        sequence = train_sequence(row, store.records)
        assert sequence.advantages.tolist() == [1.0] * row.tokens
        assert sequence.pg_weight.sum() == pytest.approx(1 / kept)
        assert row.prompt_tokens + row.tokens == len(sequence.token_ids)
