"""One step of the policy in some form, on real ranks: what its tests compare."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

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

BUDGET = 128
# Both need whole sequences: the ratio of GSPO, and an importance weight per sequence.
LOSSES = {
    "token": LossSettings(entropy_coefficient=0.02),
    "sequence": LossSettings("sequence_clipped", importance_cap=2.0, importance_level="sequence"),
}
METRICS = ("loss/joint", "loss/nll", "policy/grad_norm", "policy/entropy", "policy/clip_share", "policy/ratio_p50",
           "mismatch/kl", "mismatch/outside_share", "tokens/trained")  # fmt: skip
PARTITIONED = ("cluster.policy.persistence_threshold=0", "cluster.policy.gradient_checkpointing=true",
               "cluster.policy.logprob_chunk=1024")  # fmt: skip


@dataclass
class Outcome:
    """Metrics by loss; weights after a step; logprobs under them by row; weights after a checkpoint was loaded."""

    metrics: dict
    weights: dict
    scores: dict
    again: dict


def stepped(ray, folder: Path, ranks: int, overrides: Sequence[str], model: Path = EMBEDDED) -> Outcome:
    """Measure two losses without a change, make a step, save, step again, load."""
    group, bare = plain.sequences()
    ref = ray.put(group)
    rows = [replace(row, ref=ref) for row in bare]
    keys = [f"cluster.policy.ranks={ranks}", "cluster.policy.threads=1", "cluster.policy.cpus=0.2", *overrides]
    return asyncio.run(_stepped(compose_config(keys), folder, rows, model))


async def _stepped(config, folder, rows, model) -> Outcome:
    plan = make_plan(config).pool("policy")
    policy = PolicyPool(plan, PolicySettings.of(config, model), config.cluster.deadlines, folder)
    try:
        await policy.ready()
        shards = shard(rows, policy.shards, BUDGET, config.cluster.policy.packing == "packed")
        step = [OptimizerStep(shards)]
        metrics = {
            loss: (await policy.train(step, TrainSettings(0.0, settings))).metrics for loss, settings in LOSSES.items()
        }
        await policy.train(step, TrainSettings(1e-3, LOSSES["token"]))
        await policy.save(folder / "checkpoint")
        await policy.export(folder / "export")
        scores = {
            row.index: torch.tensor(logprobs)
            for of_shard, found in zip(shards, await policy.score(shards), strict=True)
            for microbatch, arrays in zip(of_shard, found, strict=True)
            for row, logprobs in zip(microbatch, arrays, strict=True)
        }
        await policy.train(step, TrainSettings(1e-3, LOSSES["token"]))
        await policy.load(folder / "checkpoint")
        await policy.export(folder / "again")
    finally:
        policy.kill()
    weights, again = (load_file(folder / one / "model.safetensors") for one in ("export", "again"))
    return Outcome(metrics, weights, scores, again)
