"""Every way to lay out a step on ranks gives the gradient and the weights of one rank with padded rows."""

import asyncio
from dataclasses import dataclass, replace

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
PACKED = ("cluster.policy.packing=packed",)
FORMS = {
    "rows": (1, ()),
    "packed": (1, PACKED),
    "partitioned": (2, PARTITIONED),
    "offloaded": (1, ("cluster.policy.offload=true", "cluster.policy.sub_group_size=20000")),
    "shared by 2, partitioned": (2, (*PACKED, *PARTITIONED, "cluster.policy.sequence_parallel=2")),
    "shared by 2 of 4": (4, (*PACKED, "cluster.policy.sequence_parallel=2")),
    "shared by 4": (4, (*PACKED, "cluster.policy.sequence_parallel=4")),
}


@dataclass
class Outcome:
    metrics: dict
    weights: dict
    scores: dict
    again: dict


@pytest.fixture(scope="module")
def outcomes(ray_session, tmp_path_factory):
    """What comes of a step of each form."""
    group, bare = plain.sequences()
    ref = ray_session.put(group)
    rows = [replace(row, ref=ref) for row in bare]
    known = {}

    async def run(name):
        ranks, overrides = FORMS[name]
        config = compose_config([f"cluster.policy.ranks={ranks}", "cluster.policy.threads=1",
                                 "cluster.policy.cpus=0.2", *overrides])  # fmt: skip
        folder = tmp_path_factory.mktemp("form")
        plan = make_plan(config).pool("policy")
        policy = PolicyPool(plan, PolicySettings.of(config, EMBEDDED), config.cluster.deadlines, folder)
        is_packed = config.cluster.policy.packing == "packed"
        try:
            await policy.ready()
            shards = shard(rows, policy.shards, BUDGET, is_packed)
            metrics = {
                loss: (await policy.train([OptimizerStep(shards)], TrainSettings(0.0, settings))).metrics
                for loss, settings in LOSSES.items()
            }
            await policy.train([OptimizerStep(shards)], TrainSettings(1e-3, LOSSES["token"]))
            await policy.save(folder / "checkpoint")
            await policy.export(folder / "export")
            scored = await policy.score(shards)
            scores = {
                row.index: torch.tensor(logprobs)
                for of_shard, found in zip(shards, scored, strict=True)
                for microbatch, arrays in zip(of_shard, found, strict=True)
                for row, logprobs in zip(microbatch, arrays, strict=True)
            }
            await policy.train([OptimizerStep(shards)], TrainSettings(1e-3, LOSSES["token"]))
            await policy.load(folder / "checkpoint")
            await policy.export(folder / "again")
        finally:
            policy.kill()
        weights = [load_file(folder / one / "model.safetensors") for one in ("export", "again")]
        return Outcome(metrics, weights[0], scores, weights[1])

    def outcome(name):
        if name not in known:
            known[name] = asyncio.run(run(name))
        return known[name]

    return outcome


@pytest.mark.parametrize("form", [name for name in FORMS if name != "rows"])
def test_a_form_has_the_loss_the_gradient_and_the_weights_of_padded_rows_on_one_rank(outcomes, form):
    expected, found = outcomes("rows"), outcomes(form)
    for loss in LOSSES:
        for metric in METRICS:
            wanted = expected.metrics[loss][metric]
            assert found.metrics[loss][metric] == pytest.approx(wanted, rel=2e-5, abs=1e-7), (loss, metric)
    assert found.weights.keys() == expected.weights.keys()
    for name, tensor in expected.weights.items():
        # Adam turns a gradient near zero into a step of full size, with either sign.
        assert (found.weights[name] - tensor).abs().mean() < 2e-6, name
        assert torch.equal(found.again[name], found.weights[name]), name
    for index, logprobs in expected.scores.items():
        assert torch.allclose(found.scores[index], logprobs, atol=2e-3)


def test_packed_sequences_have_no_padding(outcomes):
    rows, packed = outcomes("rows").metrics["token"], outcomes("packed").metrics["token"]
    assert packed["batch/padding_share"] == 0 < rows["batch/padding_share"]
