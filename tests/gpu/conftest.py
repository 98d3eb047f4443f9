"""What the GPU tests run on: a model, and runs of the real command."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mel_ray.data.model_folder import EMBEDDED

ROOT = Path(__file__).resolve().parents[2]
KEYS = (
    "model=local", "model.max_context=2048", "data=world", "reward.function=tests.pools.parity_reward:by_parity",
    "rollout.max_tokens=256", "mel.max_tokens=128", "rollout.prompts_per_step=8", "rollout.group_size=4",
    "run.steps=3", "run.name=run", "eval.before=false", "eval.after=false",
)  # fmt: skip
SECONDS = 1500  # compilation and the capture of CUDA graphs included


def gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def pytest_collection_modifyitems(items):
    for item in items:
        if "gpu" in Path(item.fspath).parts and not gpus():
            item.add_marker(pytest.mark.skip(reason="no GPU"))


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The folder in MEL_RAY_GPU_MODEL, or a Qwen3 of 0.4 billion random parameters with the embedded tokenizer."""
    given = os.environ.get("MEL_RAY_GPU_MODEL")
    if given:
        return Path(given)
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("model")
    shutil.copytree(EMBEDDED, folder, dirs_exist_ok=True)
    (folder / "model.safetensors").unlink()
    settings = json.loads((EMBEDDED / "config.json").read_text())
    settings |= {
        "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 4096, "dtype": "bfloat16",
    }  # fmt: skip
    torch.manual_seed(0)
    Qwen3ForCausalLM(Qwen3Config(**settings)).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture
def trained(model, tmp_path):
    """Train with these keys; the metrics of every step."""

    def train(*overrides: str) -> list[dict]:
        command = [
            sys.executable,
            "-m",
            "mel_ray.main",
            *KEYS,
            f"model.path={model}",
            f"run.dir={tmp_path}",
            *overrides,
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
        logs = sorted((tmp_path / "run" / "logs").glob("*.log"))
        tails = [f"--- {log.name}\n{log.read_text()[-2000:]}" for log in logs]
        assert done.returncode == 0, "\n".join([done.stdout[-3000:], done.stderr[-3000:], *tails])
        print(done.stdout[-1500:])
        return [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]

    return train
