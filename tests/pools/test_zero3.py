"""ZeRO-3 against plain PyTorch, and one rank against two, under different splits into microbatches."""

import asyncio

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mel_ray.config.load import compose_config
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.pools.policy import PolicyPool
from mel_ray.records import Group, Prompt, SequenceKind, SequenceSpec, Trajectory
from mel_ray.rl.assemble import shard
from mel_ray.wiring import policy_settings

LR = 1e-3


def sequences(seed: int = 0, count: int = 9) -> tuple[Group, list[SequenceSpec]]:
    rng = np.random.default_rng(seed)
    prompt = Prompt("q", "q", "a", rng.integers(3, 700, 6))
    lengths = [int(n) for n in rng.integers(3, 40, count)]
    trajectories = tuple(Trajectory(rng.integers(3, 700, n), rng.normal(-2, 0.1, n), "", "stop", 0, 0) for n in lengths)
    specs = [
        SequenceSpec(SequenceKind.TRAJECTORY, None, i, 6, n,
                     advantage=0.0 if i % 3 == 0 else float(rng.choice([-1.0, 1.0])),
                     pg_weight=0.0 if i % 3 == 0 else 1 / (count * n), nll_weight=1 / n if i % 3 == 0 else 0.0)
        for i, n in enumerate(lengths)
    ]  # fmt: skip
    return Group(prompt, trajectories), specs


def reference(group: Group, specs: list[SequenceSpec]) -> tuple[float, float]:
    """Joint loss and gradient norm of MEL Eq. 10, written out plainly, sequence by sequence."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    total = 0.0
    for spec in specs:
        completion = group.trajectories[spec.index].token_ids
        ids = torch.tensor(np.concatenate([group.prompt.token_ids, completion]).astype("int64"))[None]
        logprobs = torch.log_softmax(model(ids).logits[0, :-1], -1).gather(-1, ids[0, 1:, None])[5:, 0]
        loss = -(spec.pg_weight * spec.advantage * torch.exp(logprobs - logprobs.detach())).sum()
        loss = loss - (spec.nll_weight * logprobs).sum()
        loss.backward()
        total += loss.item()
    norm = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters() if p.grad is not None))
    return total, float(norm)


@pytest.fixture(scope="module")
def outcomes(ray_session, tmp_path_factory):
    """Loss, gradient norm and weights after two steps for (ranks, token budget)."""
    from dataclasses import replace

    group, bare = sequences()
    ref = ray_session.put(group)
    specs = [replace(spec, ref=ref) for spec in bare]

    async def run(ranks: int, budget: int):
        chunk = 4096 if budget == 4096 else 1024  # one call of the head per microbatch, or four
        overrides = [f"cluster.policy.ranks={ranks}", f"cluster.policy.logprob_chunk={chunk}"]
        config = compose_config([*overrides, "cluster.policy.threads=1", "algorithm.max_grad_norm=0.5"])
        folder = tmp_path_factory.mktemp(f"r{ranks}b{budget}")
        policy = PolicyPool(config.cluster, policy_settings(config, EMBEDDED), 1, folder)
        try:
            await policy.ready()
            first = await policy.train([shard(specs, ranks, budget)], LR)
            await policy.save(folder / "checkpoint")
            second = await policy.train([shard(specs, ranks, budget)], LR)
            await policy.export(folder / "export")
            await policy.load(folder / "checkpoint")
            again = await policy.train([shard(specs, ranks, budget)], LR)
            two = await policy.train([shard(specs[:5], ranks, budget), shard(specs[5:], ranks, budget)], 0.0)
        finally:
            for actor in policy.actors:
                ray_session.kill(actor)
        weights = load_file(folder / "export" / "model.safetensors")
        return first.metrics, second.metrics, weights, again.metrics, two

    return {key: asyncio.run(run(*key)) for key in [(1, 4096), (1, 64), (2, 64)]}, reference(group, bare)


@pytest.mark.parametrize("key", [(1, 4096), (1, 64), (2, 64)])
def test_loss_and_gradient_equal_a_plain_reference(outcomes, key):
    runs, (loss, norm) = outcomes
    assert runs[key][0]["loss/joint"] == pytest.approx(loss, rel=1e-5)
    assert runs[key][0]["policy/grad_norm"] == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("key", [(1, 64), (2, 64)])
def test_neither_ranks_nor_microbatches_change_the_update(outcomes, key):
    runs, _ = outcomes
    one, other = runs[(1, 4096)], runs[key]
    assert other[1]["loss/joint"] == pytest.approx(one[1]["loss/joint"], rel=1e-4)
    for name, weight in one[2].items():
        torch.testing.assert_close(other[2][name], weight, rtol=0, atol=2e-5)


@pytest.mark.parametrize("key", [(1, 4096), (2, 64)])
def test_a_checkpoint_restores_weights_and_optimizer(outcomes, key):
    second, again = outcomes[0][key][1], outcomes[0][key][3]
    assert again["loss/joint"] == pytest.approx(second["loss/joint"], rel=1e-6)
    assert again["policy/grad_norm"] == pytest.approx(second["policy/grad_norm"], rel=1e-6)


def test_several_minibatches_are_several_optimizer_steps(outcomes):
    two = outcomes[0][(2, 64)][4]
    assert two.optimizer_steps == 2
    assert two.metrics["batch/optimizer_steps"] == 2
