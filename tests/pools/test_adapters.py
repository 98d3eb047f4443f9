"""LoRA: adapters alone are trained and stored, and everybody else sees the merged model."""

import asyncio
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from mel_ray.config.load import compose_config
from mel_ray.config.plan import make_plan
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.policy.batch import shard
from mel_ray.policy.policy_pool import PolicyPool
from mel_ray.policy.policy_settings import PolicySettings
from mel_ray.records.step import LossSettings, OptimizerStep, TrainSettings
from tests.pools import plain

BUDGET, IDS = 256, torch.arange(5, 45)[None]
LORA = ("cluster.policy.lora.rank=4", "cluster.policy.lora.alpha=8", "algorithm.kl.coefficient=0.1",
        "cluster.policy.threads=1", "cluster.policy.cpus=0.2")  # fmt: skip
SETTINGS = TrainSettings(5e-3, LossSettings())


def size_of(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two partitioned ranks"])
def trained(request, ray_session, tmp_path_factory):
    """A folder with a checkpoint and exports: before training, after two updates, and after loading the checkpoint."""
    ranks, folder = request.param, tmp_path_factory.mktemp("lora")
    group, bare = plain.sequences()
    rows = [replace(row, ref=ray_session.put(group)) for row in bare]
    config = compose_config([*LORA, f"cluster.policy.ranks={ranks}", "cluster.policy.persistence_threshold=0"])
    found = {}

    async def run():
        plan, settings = make_plan(config).pool("policy"), PolicySettings.of(config, EMBEDDED)
        policy = PolicyPool(plan, settings, config.cluster.deadlines, folder)
        step = OptimizerStep(shard(rows, ranks, BUDGET))

        async def scores(of_reference):
            return [[a.tolist() for a in m] for r in await policy.score(step.shards, of_reference) for m in r]

        try:
            await policy.ready()
            await policy.export(folder / "before")
            found["initial scores"] = await scores(False)
            for _ in range(2):
                found["metrics"] = (await policy.train([step], SETTINGS)).metrics
            found["reference scores"], found["scores"] = await scores(True), await scores(False)
            await policy.save(folder / "checkpoint")
            await policy.export(folder / "after")
            await policy.train([step], SETTINGS)
            await policy.load(folder / "checkpoint")
            await policy.export(folder / "again")
        finally:
            policy.kill()

    asyncio.run(run())
    return folder, found


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_the_exported_model_is_the_initial_one_until_something_is_learned(trained):
    folder, _ = trained
    before, base = weights(folder / "before"), load_file(EMBEDDED / "model.safetensors")
    assert before.keys() == base.keys()
    assert all(torch.equal(before[name], base[name]) for name in base)


def test_linear_layers_change_and_everything_else_stays(trained):
    folder, _ = trained
    before, after = weights(folder / "before"), weights(folder / "after")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith("_proj.weight")}
    update = (
        after["model.layers.0.self_attn.q_proj.weight"] - before["model.layers.0.self_attn.q_proj.weight"]
    ).double()
    assert torch.linalg.matrix_rank(update, rtol=1e-4) <= 4


def test_the_reference_is_the_model_without_its_adapters(trained):
    _, found = trained
    flat = {key: torch.tensor([x for m in found[key] for row in m for x in row]) for key in found if "scores" in key}
    assert torch.allclose(flat["reference scores"], flat["initial scores"], atol=1e-5)
    assert not torch.allclose(flat["scores"], flat["initial scores"], atol=1e-2)


def test_a_checkpoint_holds_the_adapters_alone_and_restores_them(trained):
    folder, _ = trained
    after, again = weights(folder / "after"), weights(folder / "again")
    assert all(torch.equal(after[name], again[name]) for name in after)
    assert size_of(folder / "checkpoint") < 0.5 * size_of(folder / "after")


def test_peft_reads_the_exported_adapter_and_finds_the_merged_model(trained):
    from peft import PeftModel

    folder, _ = trained
    base = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, folder / "after" / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(folder / "after", dtype=torch.float32)
    with torch.no_grad():
        assert torch.allclose(adapted(IDS).logits, merged(IDS).logits, atol=1e-4)
