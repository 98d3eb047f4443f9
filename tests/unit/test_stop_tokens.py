"""What ends a completion: found in the model's files, printed by the check, and compared with the chat template."""

import json

import pytest

from mel_ray.cli.check import stop_text
from mel_ray.config.load import compose_config
from mel_ray.config.schema import ModelConfig
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.model_support import stop_problems
from tests.unit.real_tokenizer import qwen3_folder
from tests.unit.tokenizer_folders import CHATML, LLAMA, byte_level, write_folder

IDS = {text: byte_level().token_to_id(text) for text in ("</s>", "<|im_end|>", "<|endoftext|>")}


def load(folder, **keys) -> ChatTokenizer:
    return ChatTokenizer(folder, ModelConfig(path=str(folder), **keys))


def problems(folder, **keys) -> list[str]:
    config = compose_config([])
    model = ModelConfig(path=str(folder), **keys)
    return [*map(str, stop_problems(config.model_copy(update={"model": model}), ChatTokenizer(folder, model)))]


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        (None, ["</s>"]),
        ({}, ["</s>"]),
        ({"eos_token_id": None}, ["</s>"]),
        ({"eos_token_id": IDS["<|im_end|>"]}, ["</s>", "<|im_end|>"]),
        ({"eos_token_id": [IDS["<|im_end|>"], IDS["<|endoftext|>"]]}, ["</s>", "<|im_end|>", "<|endoftext|>"]),
    ],
)
def test_stop_tokens_come_from_the_tokenizer_and_the_generation_configuration(tmp_path, generation, expected):
    folder = write_folder(tmp_path, byte_level(), generation)
    assert set(load(folder).stop_ids) == {IDS[text] for text in expected}
    given = load(folder, stop_tokens=("<|endoftext|>",))
    assert set(given.stop_ids) == {IDS[text] for text in (*expected, "<|endoftext|>")}
    assert all(f"{text} ({IDS[text]})" in stop_text(given) for text in (*expected, "<|endoftext|>"))


def test_without_a_generation_configuration_the_models_own_counts(tmp_path):
    folder = write_folder(tmp_path, byte_level())
    (folder / "config.json").write_text(json.dumps({"eos_token_id": IDS["<|im_end|>"]}))
    assert set(load(folder).stop_ids) == {IDS["</s>"], IDS["<|im_end|>"]}
    (folder / "generation_config.json").write_text(json.dumps({}))
    assert set(load(folder).stop_ids) == {IDS["</s>"]}


def test_an_older_folder_names_its_tokens_in_a_map(tmp_path):
    folder = write_folder(tmp_path, byte_level())
    (folder / "tokenizer_config.json").unlink()
    assert load(folder).stop_ids == ()
    assert "every completion is cut off" in stop_text(load(folder))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}}))
    assert load(folder).stop_ids == (IDS["<|im_end|>"],)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHATML, "<|im_end|>"),
        (LLAMA, "</s>"),
        (None, None),  # the plain template ends with text
        ("{% for m in messages %}{{ m.content }} </s>{% endfor %}", "</s>"),
        ("{% for m in messages %}{{ m.content }}<|im_end|></s>{% endfor %}", "<|im_end|>"),
        ("{{ messages[-1].content }}", None),
        ("{% if messages|length > 1 %}{{ raise_exception('prompts alone') }}{% endif %}x", None),
    ],
)
def test_the_end_of_a_turn_is_what_follows_an_answer(tmp_path, template, end):
    folder = write_folder(tmp_path, byte_level(), chat_template=template)
    assert load(folder).turn_end == end
    is_stop = end in (None, "</s>")
    assert (problems(folder) == []) == is_stop
    if not is_stop:
        assert problems(folder, stop_tokens=(end,)) == []


def test_the_problem_names_the_token_and_all_stop_tokens_to_set(tmp_path):
    folder = write_folder(tmp_path, byte_level(), chat_template=CHATML)
    (problem,) = problems(folder, stop_tokens=("<|endoftext|>",))
    assert "ends an assistant's turn with <|im_end|>, which is not a stop token" in problem
    assert 'Set model.stop_tokens=["<|endoftext|>", "<|im_end|>"]' in problem


def test_qwen3_as_a_base_model(tmp_path):
    """Its end-of-sequence token is <|endoftext|> there, and its template ends turns with <|im_end|>."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((qwen3_folder() / "tokenizer.json").read_bytes())
    settings = json.loads((qwen3_folder() / "tokenizer_config.json").read_text()) | {"eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert "<|im_end|>" in str(problems(folder))
    shipped = compose_config(["model=qwen3_8b_base"]).model
    assert problems(folder, stop_tokens=shipped.stop_tokens) == []
    assert problems(qwen3_folder()) == []
