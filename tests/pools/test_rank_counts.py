"""A checkpoint can be continued by another number of ranks: the same weights, and the same next update."""

import asyncio
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from mel_ray.config.load import compose_config
from mel_ray.config.plan import make_plan
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.policy.batch import shard
from mel_ray.policy.policy_pool import PolicyPool
from mel_ray.policy.policy_settings import PolicySettings
from mel_ray.records.step import LossSettings, OptimizerStep, TrainSettings
from tests.pools import plain

GROUPS = ("cluster.policy.sub_group_size=40000",)  # several groups of parameters, other ones on other numbers of ranks
FORMS = {
    "float32, slow weights, two optimizer states": ((1, 2), (*GROUPS, "mel.reptile.every=1")),
    "bfloat16": ((1, 2), ("model.dtype=bfloat16",)),
    "adapters": ((1, 2), (*GROUPS, "cluster.policy.lora.rank=4", "cluster.policy.persistence_threshold=0")),
    "float32, to four": ((2, 4), (*GROUPS, "mel.reptile.every=1")),
    "bfloat16, offloaded, to four": ((2, 4), (*GROUPS, "model.dtype=bfloat16", "cluster.policy.offload=true")),
}

SLOW = set(FORMS) - {"float32, slow weights, two optimizer states", "bfloat16"}


@pytest.fixture(scope="module")
def rows(ray_session):
    group, bare = plain.sequences()
    ref = ray_session.put(group)
    return [replace(row, ref=ref) for row in bare]


class Ranks:
    """A policy on so many ranks, in a folder of its own."""

    def __init__(self, count, overrides, rows, folder):
        common = [f"cluster.policy.ranks={count}", "cluster.policy.threads=1", "cluster.policy.cpus=0.2"]
        config = compose_config([*common, *overrides])
        settings = PolicySettings.of(config, EMBEDDED)
        self.policy = PolicyPool(make_plan(config).pool("policy"), settings, config.cluster.deadlines, folder)
        attempts, lessons = (OptimizerStep(shard(part, count, 128)) for part in plain.by_kind(rows))
        self.steps = [attempts, replace(lessons, optimizer="experience")] if settings.has_slow_weights else [attempts]
        self.slow_rate = 0.25 if settings.has_slow_weights else None
        self.folder = folder

    async def train(self):
        return (
            await self.policy.train(self.steps, TrainSettings(1e-3, LossSettings(), slow_rate=self.slow_rate))
        ).metrics

    async def weights(self, name):
        await self.policy.export(self.folder / name)
        return load_file(self.folder / name / "model.safetensors")

    async def begin(self):
        """Two updates, a checkpoint and a third: weights then, what it measured, weights after it."""
        await self.train()
        await self.train()
        await self.policy.save(self.folder / "checkpoint")
        return await self.weights("before"), await self.train(), await self.weights("after")

    async def go_on(self, other):
        """The third update from the checkpoint of other ranks."""
        await self.policy.load(other.folder / "checkpoint")
        return await self.weights("loaded"), await self.train(), await self.weights("continued")


def assert_same_update(expected, found, tolerance, norm_tolerance):
    before, metrics, after = expected
    loaded, again, continued = found
    assert before.keys() == loaded.keys()
    for name in before:
        assert torch.equal(loaded[name], before[name]), name
        assert (continued[name].double() - after[name].double()).abs().mean() < tolerance, name
    assert any(not torch.equal(before[name], after[name]) for name in before)
    for name in ("policy/grad_norm", "loss/joint"):
        assert again[name] == pytest.approx(metrics[name], rel=norm_tolerance, abs=1e-6), name


@pytest.mark.parametrize(
    "form", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in FORMS]
)
def test_other_ranks_continue_where_these_ended(rows, form, tmp_path):
    counts, overrides = FORMS[form]

    async def main():
        few, many = (Ranks(count, overrides, rows, tmp_path / str(count)) for count in counts)
        try:
            await asyncio.gather(few.policy.ready(), many.policy.ready())
            begun = await few.begin(), await many.begin()
            return begun, (await many.go_on(few), await few.go_on(many))
        finally:
            few.policy.kill()
            many.policy.kill()

    begun, continued = asyncio.run(main())
    tolerances = (5e-5, 2e-2) if "bfloat16" in form else (2e-6, 1e-4)
    for expected, found in zip(begun, continued, strict=True):
        assert_same_update(expected, found, *tolerances)
    assert not list(tmp_path.rglob(".*"))  # the form between is gone
