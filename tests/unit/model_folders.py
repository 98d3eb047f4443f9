"""Model folders made in the test: a config.json of a few keys, a small tokenizer, and weights of one number."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from mel_ray.config.load import compose_config
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.model_folder import locate_model
from mel_ray.data.model_support import support_problems
from tests.unit.tokenizer_folders import byte_level, write_folder

QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 320,
    "max_position_embeddings": 512,
}


def write_model(folder: Path, tokenizer=None, **changes) -> Path:
    """A folder with a tiny config.json, and weights of one number; a key changed to ... is left out."""
    write_folder(folder, tokenizer or byte_level())
    config = {key: value for key, value in (QWEN3 | changes).items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"x": np.zeros(1, np.float32)}, folder / "model.safetensors")
    return folder


def problems(folder, *overrides) -> str:
    config = compose_config(["model=local", f"model.path={folder}", "model.max_context=256", *overrides])
    tokenizer = ChatTokenizer(locate_model(str(folder)), config.model)
    return "\n".join(map(str, support_problems(config, folder, tokenizer)))
