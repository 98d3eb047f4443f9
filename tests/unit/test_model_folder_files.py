"""data/model_folder.py and data/tokenizer_folder.py: what a folder lacks is a sentence that says what to do."""

import json
import struct
import subprocess
import sys

import pytest

from mel_ray.data.model_folder import locate_model
from mel_ray.records.problem import ConfigError
from tests.unit.model_folders import problems, write_model


def sentence(folder) -> str:
    with pytest.raises(ConfigError) as caught:
        locate_model(str(folder))
    return str(caught.value)


def test_a_folder_that_is_incomplete(tmp_path):
    folder = write_model(tmp_path)
    index = {"weight_map": {"x": "model.safetensors", "y": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "it lacks model-00002-of-00002.safetensors" in sentence(folder)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model.safetensors").unlink()
    (folder / "training_args.bin").write_bytes(b"x")
    assert "it holds no weights" in sentence(folder)
    (folder / "config.json").rename(folder / "adapter_config.json")
    assert "it is an adapter alone" in sentence(folder)


def test_weights_of_eight_bits(tmp_path):
    folder = write_model(tmp_path)
    header = json.dumps({"x": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0")
    assert "holds quantised weights (F8_E4M3)" in sentence(folder)


def test_a_tokenizer_without_tokenizer_json_says_how_to_convert_it(tmp_path):
    """The command of the sentence is run, and then the folder can be used."""
    pytest.importorskip("transformers")
    folder = write_model(tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"has no tokenizer.json. Give a complete"):
        problems(folder)
    (folder / "vocab.json").write_text(json.dumps(tokenizer["model"]["vocab"]))
    merges = [" ".join(pair) for pair in tokenizer["model"]["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges))
    write_settings = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(write_settings))
    with pytest.raises(ConfigError, match=r"its tokenizer is .*vocab.json") as caught:
        problems(folder)
    command = str(caught.value).split("python -c ")[1].rstrip(".").strip('"')
    subprocess.run([sys.executable, "-c", command], check=True, capture_output=True)
    assert problems(folder) == ""
