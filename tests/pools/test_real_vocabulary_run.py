"""A whole run with Qwen3's own tokenizer and vocabulary, on a random model of two layers with heads of size 64."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from mel_ray.run.metrics_file import read_metrics
from tests.pools.test_end_to_end import NO_EVALUATION, run
from tests.unit.real_tokenizer import qwen3_folder
from tests.unit.test_real_vocabulary import random_qwen3


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    random_qwen3().save_pretrained(folder)
    for file in qwen3_folder().iterdir():
        shutil.copy(file, folder)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("{{ messages[0].content }}")
    return folder


def test_a_run_makes_optimizer_steps(tmp_path, model):
    sizes = ["run.steps=2", "rollout.prompts_per_step=4", "rollout.group_size=4", "rollout.max_tokens=16"]
    policy = ["cluster.policy.token_budget=1024", "cluster.policy.logprob_chunk=64", "cluster.rollout.engines=1"]
    thinking = "model.template_arguments={enable_thinking: false}"
    reward = "reward.function=tests.pools.parity_reward:by_parity"
    own = [f"run.dir={tmp_path}", "run.name=real", f"model.path={model}", "mel.enabled=false", thinking, reward]
    done = run(*own, *sizes, *policy, *NO_EVALUATION)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [row for row in read_metrics(tmp_path / "real" / "metrics.jsonl") if "reward/mean" in row]
    assert [row["batch/optimizer_steps"] for row in steps] == [1, 1]
    assert all(row["policy/grad_norm"] > 0 for row in steps)
    assert all(abs(row["mismatch/max"]) < 1e-3 for row in steps)
    assert json.loads((tmp_path / "real" / "summary.json").read_text())["status"] == "done"
    (export,) = (tmp_path / "real" / "export").rglob("model.safetensors")
    assert (export.parent / "additional_chat_templates" / "rag.jinja").exists()
    before, after = load_file(model / "model.safetensors"), load_file(export)
    assert all(not torch.equal(before[name], after[name]) for name in before)
