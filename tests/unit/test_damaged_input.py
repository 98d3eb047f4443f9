"""Damaged folders, texts and lists of sources end in a sentence, not in a traceback."""

import json
import shutil

import pytest

from mel_ray.config.checks import find_problems
from mel_ray.config.load import compose_config
from mel_ray.config.schema import ModelConfig, SourceConfig
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.datasets import load
from mel_ray.data.files import is_hub_id
from mel_ray.data.model_folder import EMBEDDED, locate_model
from mel_ray.data.repetitions import asked
from mel_ray.records.problem import ConfigError
from mel_ray.records.question import Question, Truth


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(EMBEDDED, tmp_path / "model")


def with_keys(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("config.json", "[]", "config.json does not hold an object"),
        ("config.json", "{", "config.json cannot be read"),
        ("config.json", "[" * 100_000, "config.json cannot be read"),
        ("model.safetensors.index.json", "{", "index.json cannot be read"),
        ("model.safetensors.index.json", "[1]", "index.json does not hold an object"),
        ("model.safetensors.index.json", '{"weight_map": [1]}', "has no weight_map"),
    ],
)
def test_a_damaged_file_of_a_model_is_named(model, name, content, sentence):
    (model / name).write_text(content)
    with pytest.raises(ConfigError, match=sentence):
        locate_model(str(model))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architectures": "Qwen3ForCausalLM"}, "no list of architectures"),
        ({"architectures": [3]}, "no list of architectures"),
        ({"vocab_size": "768"}, "vocab_size in its config.json is not a number"),
    ],
)
def test_a_value_of_the_wrong_kind_in_a_models_configuration_is_named(model, changes, sentence):
    with_keys(model / "config.json", **changes)
    with pytest.raises(ConfigError, match=sentence):
        locate_model(str(model))


@pytest.mark.parametrize("content", ['{"eos_token_id": "2"}', '{"eos_token_id": [2, null, "x"]}', "[]", "{"])
def test_a_damaged_generation_configuration_is_named(model, content):
    (model / "generation_config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"generation_config\.json"):
        ChatTokenizer(model, ModelConfig(path=str(model)))


def test_deep_brackets_are_a_text(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "[" * 100_000, "answer": "1"}))
    (question,) = load(SourceConfig(kind="table", path=str(tmp_path / "a.jsonl"))).questions
    assert question.text == "[" * 100_000


def test_half_a_character_is_an_error_that_names_its_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "a", "answer": "1"}\n{"question": "b\\ud800", "answer": "1"}\n')
    with pytest.raises(ConfigError, match=r"line 2 of a\.jsonl: the question holds half a character"):
        load(SourceConfig(kind="table", path=str(tmp_path / "a.jsonl")))


def test_extraction_needs_a_rule_unless_a_function_judges():
    assert "reward.extract" in [one.path for one in find_problems(compose_config(["reward.extract=[]"]))]
    own = compose_config(["reward.extract=[]", "reward.function=a:b"])
    assert "reward.extract" not in [one.path for one in find_problems(own)]


def test_the_same_words_with_other_options_are_another_question():
    one, other = (Question("Which is true?", Truth("A", options=texts)) for texts in (("x", "y"), ("x", "z")))
    assert asked(one) != asked(other)
    assert one.question_id != other.question_id
    assert Question("Which is true?", Truth("A")).question_id == Question("Which is true?", Truth("B")).question_id


@pytest.mark.parametrize("text", ["\u200b", "\ufeff\u2060 \u00ad", "\u200e\n\u200f"])
@pytest.mark.parametrize("as_row", [lambda text: text, lambda text: [{"role": "user", "content": text}]])
def test_characters_without_width_are_no_question_and_no_answer(tmp_path, text, as_row):
    rows = [
        {"question": "Q", "answer": "1"},
        {"question": as_row(text), "answer": "1"},
        {"question": "R", "answer": text},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = load(SourceConfig(kind="table", path=str(tmp_path / "a.jsonl")))
    assert [one.text for one in found.questions] == ["Q"]
    assert [one.reason for one in found.dropped] == ["no question", "no answer"]


@pytest.mark.parametrize(
    ("name", "written", "line"),
    [
        ("a.jsonl", '{{"question": "Q", "answer": "1"}}\n{{"question": "R", "answer": {digits}}}\n', 2),
        ("a.json", '[\n{{"question": "{digits}", "answer": "1"}},\n{{"question": "R",\n"answer": -{digits}}}]', 4),
    ],
)
def test_a_number_of_too_many_digits_is_named_with_its_line(tmp_path, name, written, line):
    (tmp_path / name).write_text(written.format(digits="7" * 5000))
    with pytest.raises(ConfigError) as caught:
        load(SourceConfig(kind="table", path=str(tmp_path / name)))
    assert f"{name}: line {line} holds a number of more than 4300 digits: write it as text" in str(caught.value)
    assert "sys." not in str(caught.value)


def test_a_path_on_the_hub_is_owner_and_name():
    assert is_hub_id("Qwen/Qwen3-8B")
    assert not any(map(is_hub_id, ("model", "./model", "~/model", "/model", "../model", "a/b/c")))
