"""ZeRO-3 against plain PyTorch, and one rank against two, under different splits into microbatches."""

import asyncio
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from mel_ray.config.load import compose_config
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.policy.policy_pool import PolicyPool
from mel_ray.records.update import LossSettings, OptimizerStep, Update
from mel_ray.policy.batch import shard
from mel_ray.driver.wiring import policy_settings
from tests.pools import plain

LR, MAX_NORM, RATE = 1e-3, 0.5, 0.25
KEYS = [(1, 4096), (1, 64), (2, 64)]  # ranks, token budget
PLAIN, NARROW = LossSettings(), LossSettings(clip_low=0.05, clip_high=0.05)
# After one step, so that the policy is no longer the reference; measured with learning rate 0.
LOSSES = {
    "k2 and entropy": (LossSettings(kl_in_loss=0.1, kl_estimator="k2", entropy_coefficient=0.02), 0.0),
    "k3": (LossSettings(kl_in_loss=0.1, kl_estimator="k3"), 0.0),
    "gspo, sequence importance": (
        LossSettings("sequence_clipped", importance_cap=2.0, importance_level="sequence"), 0.0),
    "kl in the reward": (LossSettings(kl_in_reward=0.1, kl_estimator="k1"), 0.7),
    "rft": (LossSettings("logprob"), 0.0),
}  # fmt: skip


def split(specs, ranks, budget) -> tuple:
    """Trajectories first, lessons behind them, and where the lessons begin."""
    first = shard([s for s in specs if not s.is_experience], ranks, budget)
    second = shard([s for s in specs if s.is_experience], ranks, budget)
    return tuple(a + b for a, b in zip(first, second, strict=True)), len(first[0])


@pytest.fixture(scope="module")
def outcomes(ray_session, tmp_path_factory):
    """What came of the same updates for every key."""
    group, bare = plain.sequences()
    ref = ray_session.put(group)
    specs = [replace(spec, ref=ref) for spec in bare]

    async def run(ranks: int, budget: int):
        chunk = 4096 if budget == 4096 else 1024  # one call of the head per microbatch, or four
        config = compose_config([
            f"cluster.policy.ranks={ranks}", f"cluster.policy.logprob_chunk={chunk}", "cluster.policy.threads=1",
            f"algorithm.max_grad_norm={MAX_NORM}", "algorithm.kl.coefficient=0.1", "mel.reptile.every=1",
        ])  # fmt: skip
        folder = tmp_path_factory.mktemp(f"r{ranks}b{budget}")
        policy = PolicyPool(config.cluster, policy_settings(config, EMBEDDED), 1, folder)

        def step(chosen=specs, **options) -> OptimizerStep:
            return OptimizerStep(shard(chosen, ranks, budget), **options)

        async def train(*steps: OptimizerStep, lr=LR, loss=PLAIN, **options):
            return await policy.train(Update(steps, lr, loss, **options))

        async def weights(name: str):
            await policy.export(folder / name)
            return load_file(folder / name / "model.safetensors")

        found = {}
        try:
            await policy.ready()
            found["first"] = await train(step())
            await policy.save(folder / "checkpoint")
            found["after one"] = await weights("export")
            for name, (loss, kl_scale) in LOSSES.items():
                found[name] = await train(step(plain.with_kl_scale(specs, kl_scale)), lr=0.0, loss=loss)
            shards, begin = split(specs, ranks, budget)
            found["split"] = await train(OptimizerStep(shards, begin), lr=0.0)
            found["balanced"] = await train(OptimizerStep(shards, begin, balance=0.3), lr=0.0)
            facts = await policy.divergence(step().shards, "k1")
            found["divergence"] = {
                spec.index: fact
                for row, row_facts in zip(step().shards, facts, strict=True)
                for batch, batch_facts in zip(row, row_facts, strict=True)
                for spec, fact in zip(batch, batch_facts, strict=True)
            }
            await policy.load(folder / "checkpoint")
            found["second"] = await train(step())
            await policy.load(folder / "checkpoint")
            found["again"] = await train(step())
            lessons, trajectories = ([s for s in specs if s.is_experience is kind] for kind in (True, False))
            await policy.load(folder / "checkpoint")
            found["two"] = await train(step(trajectories[:3]), step(trajectories[3:]), epochs=2, loss=NARROW)
            found["after two"] = await weights("two-export")
            await policy.load(folder / "checkpoint")
            await train(step(lessons, optimizer="experience"), step(trajectories), loss=NARROW)
            found["after lessons first"] = await weights("lessons-first-export")
            await policy.load(folder / "checkpoint")
            both = [step(trajectories, is_compared=True),
                    step(lessons, optimizer="experience", lr_factor=0.5, is_compared=True)]  # fmt: skip
            await train(*both)
            await policy.save(folder / "separate")
            found["separate"] = await train(*both, slow_rate=RATE)
            found["after separate and reptile"] = await weights("separate-export")
            await policy.load(folder / "separate")
            await train(*both, slow_rate=RATE)
            found["the same, resumed"] = await weights("resumed-export")
        finally:
            for actor in policy.actors:
                ray_session.kill(actor)
        return found

    return {key: asyncio.run(run(*key)) for key in KEYS}


@pytest.fixture(scope="module")
def initial():
    return plain.load()


@pytest.fixture
def trained(outcomes):
    """A plain model with the weights after the first step."""
    model = plain.load()
    model.load_state_dict(outcomes[(1, 4096)]["after one"], strict=False)
    return model


@pytest.mark.parametrize("key", KEYS)
def test_loss_and_gradient_equal_a_plain_reference(outcomes, initial, key):
    group, specs = plain.sequences()
    loss, gradient = plain.gradients(initial, initial, group, specs, PLAIN)
    first = outcomes[key]["first"].metrics
    assert first["loss/joint"] == pytest.approx(loss, rel=1e-5)
    assert first["policy/grad_norm"] == pytest.approx(plain.norm(gradient), rel=1e-4)
    assert first["policy/ratio_p99"] == 1.0
    trained_tokens = sum(s.completion_tokens - s.is_experience for s in specs)
    assert first["batch/signal_tokens"] == trained_tokens


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", LOSSES)
def test_every_term_of_the_loss_equals_a_plain_reference(outcomes, initial, trained, name, key):
    group, specs = plain.sequences()
    loss, kl_scale = LOSSES[name]
    value, gradient = plain.gradients(trained, initial, group, plain.with_kl_scale(specs, kl_scale), loss)
    found = outcomes[key][name].metrics
    assert found["loss/joint"] == pytest.approx(value, rel=1e-4, abs=1e-5)
    assert found["policy/grad_norm"] == pytest.approx(plain.norm(gradient), rel=2e-3)


@pytest.mark.parametrize("key", KEYS)
def test_the_two_gradients_are_measured_and_balanced(outcomes, initial, trained, key):
    group, specs = plain.sequences()
    parts = [[s for s in specs if s.is_experience == kind] for kind in (False, True)]
    policy, experience = (plain.gradients(trained, initial, group, part, PLAIN)[1] for part in parts)
    found = outcomes[key]["split"].metrics
    assert found["gradient/policy_norm"] == pytest.approx(plain.norm(policy), rel=2e-3)
    assert found["gradient/experience_norm"] == pytest.approx(plain.norm(experience), rel=2e-3)
    dot = sum((a * b).sum() for a, b in zip(policy, experience, strict=True))
    assert found["gradient/cosine"] == pytest.approx(float(dot) / plain.norm(policy) / plain.norm(experience), abs=2e-3)
    assert found["policy/grad_norm"] == pytest.approx(
        plain.norm([a + b for a, b in zip(policy, experience, strict=True)]), rel=2e-3)  # fmt: skip
    scale = 0.3 * plain.norm(policy) / plain.norm(experience)
    balanced = plain.norm([a + scale * b for a, b in zip(policy, experience, strict=True)])
    assert outcomes[key]["balanced"].metrics["policy/grad_norm"] == pytest.approx(balanced, rel=2e-3)


@pytest.mark.parametrize("key", KEYS)
def test_divergence_from_the_reference(outcomes, initial, trained, key):
    group, specs = plain.sequences()
    for spec in specs:
        with torch.no_grad():
            now, before = (plain.logprobs_and_entropy(model, group, spec)[0] for model in (trained, initial))
        to_go = [float((now - before)[t:].sum()) for t in range(len(now))]
        facts = outcomes[key]["divergence"][spec.index]
        assert facts.total == pytest.approx(to_go[0], abs=2e-3)
        assert facts.to_go_sum == pytest.approx(sum(to_go), rel=5e-3, abs=2e-2)
        assert facts.to_go_square_sum == pytest.approx(sum(x * x for x in to_go), rel=5e-3, abs=2e-2)


@pytest.mark.parametrize("key", KEYS)
def test_separate_optimizers_and_reptile_equal_plain_ones(outcomes, initial, key):
    group, specs = plain.sequences()
    model = plain.load()
    parts = [[s for s in specs if s.is_experience == kind] for kind in (False, True)]
    options = {"betas": (0.9, 0.95), "weight_decay": 0.0}
    usual = torch.optim.AdamW(model.parameters(), lr=LR, **options)
    own = torch.optim.AdamW(model.parameters(), lr=LR * 0.5, **options)
    start = [p.detach().clone() for p in model.parameters()]
    plain.apply(usual, model, plain.gradients(model, initial, group, specs, PLAIN)[1], MAX_NORM)
    for _ in range(2):
        plain.apply(usual, model, plain.gradients(model, initial, group, parts[0], PLAIN)[1], MAX_NORM)
        plain.apply(own, model, plain.gradients(model, initial, group, parts[1], PLAIN)[1], MAX_NORM)
    with torch.no_grad():
        for parameter, slow in zip(model.parameters(), start, strict=True):
            parameter.copy_(slow + RATE * (parameter - slow))
    found, resumed = outcomes[key]["after separate and reptile"], outcomes[key]["the same, resumed"]
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.detach(), rtol=0, atol=1e-4)
        torch.testing.assert_close(resumed[name], found[name], rtol=0, atol=1e-6)
    moved = max(float((p.detach() - s).abs().max()) for p, s in zip(model.parameters(), start, strict=True))
    assert moved > 1e-3  # an update worth comparing
    found = outcomes[key]["separate"].metrics
    assert found["gradient/policy_norm"] == pytest.approx(found["policy/grad_norm"], rel=1e-3)
    assert -1 <= found["gradient/cosine"] <= 1
    assert found["gradient/cosine"] == pytest.approx(outcomes[KEYS[0]]["separate"].metrics["gradient/cosine"], abs=1e-3)


@pytest.mark.parametrize("key", KEYS[1:])
def test_neither_ranks_nor_microbatches_change_the_update(outcomes, key):
    one, other = outcomes[KEYS[0]], outcomes[key]
    assert other["second"].metrics["loss/joint"] == pytest.approx(one["second"].metrics["loss/joint"], rel=1e-4)
    for name, weight in one["after one"].items():
        torch.testing.assert_close(other["after one"][name], weight, rtol=0, atol=2e-5)


@pytest.mark.parametrize("key", KEYS)
def test_a_checkpoint_restores_weights_and_optimizer(outcomes, key):
    second, again = outcomes[key]["second"].metrics, outcomes[key]["again"].metrics
    assert again["loss/joint"] == pytest.approx(second["loss/joint"], rel=1e-6)
    assert again["policy/grad_norm"] == pytest.approx(second["policy/grad_norm"], rel=1e-6)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("case", ["after two", "after lessons first"])
def test_later_steps_of_a_batch_are_off_policy(outcomes, initial, case, key):
    """The ratio's denominator is of before the first step, also where that was one on lessons; clipping takes part."""
    group, specs = plain.sequences()
    lessons, trajectories = ([s for s in specs if s.is_experience is kind] for kind in (True, False))
    model = plain.load()
    usual, own = (torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.0) for _ in range(2))
    plain.apply(usual, model, plain.gradients(model, initial, group, specs, PLAIN)[1], MAX_NORM)  # the checkpoint
    old = plain.old_logprobs(model, group, trajectories)
    plan = {"after two": [(usual, trajectories[:3]), (usual, trajectories[3:])] * 2,
            "after lessons first": [(own, lessons), (usual, trajectories)]}[case]  # fmt: skip
    clipped = 0
    for optimizer, part in plan:
        _, gradient = plain.gradients(model, initial, group, part, NARROW, old)
        clipped += plain.clipped_tokens(model, group, part, NARROW, old)
        plain.apply(optimizer, model, gradient, MAX_NORM)
    assert clipped > 0
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(outcomes[key][case][name], parameter.detach(), rtol=0, atol=2e-4)


def test_what_several_minibatches_and_epochs_report(outcomes):
    two = outcomes[(2, 64)]["two"]
    assert two.optimizer_steps == two.metrics["batch/optimizer_steps"] == 4
    assert two.metrics["policy/clip_share"] > 0
    assert two.metrics["policy/ratio_p99"] > 1 > two.metrics["policy/ratio_p01"]
