"""ZeRO-3 against plain PyTorch, and one rank against two, under different splits into microbatches."""

import asyncio
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from mel_ray.config.load import compose_config
from mel_ray.config.plan import make_plan
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.driver.learner import Learner
from mel_ray.policy.batch import shard
from mel_ray.policy.policy_pool import PolicyPool
from mel_ray.policy.policy_settings import PolicySettings
from mel_ray.records.step import LossSettings, OptimizerStep, TrainSettings
from tests.pools import plain

LR, MAX_NORM, RATE, PENALTY = 1e-3, 0.5, 0.25, 0.7
KEYS = [(1, 4096), (1, 64), (2, 64)]  # ranks, token budget
PLAIN, NARROW = LossSettings(), LossSettings(clip_low=0.05, clip_high=0.05)
# After one step, so that the policy is no longer the reference; measured with learning rate 0.
LOSSES = {
    "k2 and entropy": LossSettings(
        kl_coefficient=0.1, kl_estimator="k2", needs_reference=True, entropy_coefficient=0.02
    ),
    "k3": LossSettings(kl_coefficient=0.1, kl_estimator="k3", needs_reference=True),
    "gspo, sequence importance": LossSettings("sequence_clipped", importance_cap=2.0, importance_level="sequence"),
    "kl in the return": LossSettings(kl_estimator="k1", needs_reference=True),
    "rft": LossSettings("logprob"),
    "ratio to the sampled": LossSettings(denominator="sampled"),
    "guided": LossSettings(),
    "guided, ratio": LossSettings(guided_correction="ratio"),
    "guided, capped": LossSettings(guided_correction="capped", guided_cap=0.5),
    "icepop": LossSettings(importance_cap=2.0, importance_floor=0.5, importance_mode="mask"),
}


def split(rows, ranks, budget) -> tuple:
    """Attempts first, then lessons, and where the lessons begin."""
    first, second = (shard(part, ranks, budget) for part in plain.by_kind(rows))
    return tuple(a + b for a, b in zip(first, second, strict=True)), len(first[0])


@pytest.fixture(scope="module")
def outcomes(ray_session, tmp_path_factory):
    """What came of the same updates for every key."""
    group, bare = plain.sequences()
    ref = ray_session.put(group)
    other = ray_session.put(replace(group, prompt=plain.OTHER_PROMPT))
    refs = {plain.OTHER: other, None: None}

    def stored(row):
        replays = tuple(replace(replay, ref=other) for replay in row.replays)
        return replace(row, ref=ref, context=refs[row.context], replays=replays)

    rows = [stored(row) for row in bare]
    guided = [stored(row) for row in plain.with_guided(bare)]
    with_lesson = [stored(row) for row in plain.with_lesson(bare)]
    attempts, lessons = plain.by_kind(rows)

    async def run(ranks: int, budget: int):
        chunk = 4096 if budget == 4096 else 1024  # one call of the head per microbatch, or four
        config = compose_config([
            f"cluster.policy.ranks={ranks}", f"cluster.policy.logprob_chunk={chunk}", "cluster.policy.threads=1",
            f"algorithm.max_grad_norm={MAX_NORM}", f"algorithm.kl.coefficient={PENALTY}", "algorithm.kl.where=return",
            "algorithm.kl.estimator=k1", "mel.reptile.every=1", "mel.credit=hint",
        ])  # fmt: skip
        folder = tmp_path_factory.mktemp(f"r{ranks}b{budget}")
        settings, plan = PolicySettings.of(config, EMBEDDED), make_plan(config).pool("policy")
        policy = PolicyPool(plan, settings, config.cluster.deadlines, folder)
        learner = Learner(config, policy, memory=None, archive=None, book=None)  # for its scoring passes

        def step(chosen=rows, **options) -> OptimizerStep:
            return OptimizerStep(shard(chosen, ranks, budget), **options)

        async def train(*steps: OptimizerStep, lr=LR, loss=PLAIN, **options):
            settings = TrainSettings(lr, loss, **options)
            return await policy.train(await learner._with_logprobs(steps, settings), settings)

        async def with_penalty():
            """Advantages per token, made of a scoring pass."""
            scored = await learner._with_penalty_logprobs(rows)
            penalties = learner._penalties(scored)
            return [row if row.is_lesson else replace(row, credit=row.credit - penalties[row.sample]) for row in scored]

        async def score(of_reference: bool):
            shards = step().shards
            scored = await policy.score(shards, of_reference)
            return {
                row.index: torch.tensor(logprobs)
                for of_rank, found in zip(shards, scored, strict=True)
                for microbatch, arrays in zip(of_rank, found, strict=True)
                for row, logprobs in zip(microbatch, arrays, strict=True)
            }

        async def weights(name: str):
            await policy.export(folder / name)
            return load_file(folder / name / "model.safetensors")

        found = {}
        try:
            await policy.ready()
            found["first"] = await train(step())
            await policy.save(folder / "checkpoint")
            found["after one"] = await weights("export")
            for name, loss in LOSSES.items():
                chosen = await with_penalty() if name == "kl in the return" else rows
                chosen = guided if name.startswith("guided") else chosen
                found[name] = await train(step(chosen), lr=0.0, loss=loss)
            sampled = LossSettings(denominator="sampled")
            found["stale"] = await train(step(attempts[:3]), step(attempts[3:]), lr=0.0, loss=sampled, version=2)
            shards, begin = split(rows, ranks, budget)
            found["split"] = await train(OptimizerStep(shards, begin), lr=0.0)
            found["balanced"] = await train(OptimizerStep(shards, begin, balance=0.3), lr=0.0)
            hinted = await learner._with_hints(with_lesson, 1)
            found["hints"] = {row.index: torch.as_tensor(row.credit) for row in plain.by_kind(hinted)[0]}
            found["scores"] = [await score(of_reference) for of_reference in (False, True)]
            await policy.load(folder / "checkpoint")
            found["second"] = await train(step())
            await policy.load(folder / "checkpoint")
            found["again"] = await train(step())
            await policy.load(folder / "checkpoint")
            found["two"] = await train(step(attempts[:3]), step(attempts[3:]), epochs=2, loss=NARROW)
            found["after two"] = await weights("two-export")
            await policy.load(folder / "checkpoint")
            await train(step(lessons, optimizer="experience"), step(attempts), loss=NARROW)
            found["after lessons first"] = await weights("lessons-first-export")
            await policy.load(folder / "checkpoint")
            both = [step(attempts, is_compared=True),
                    step(lessons, optimizer="experience", lr_factor=0.5, is_compared=True)]  # fmt: skip
            await train(*both)
            await policy.save(folder / "separate")
            found["separate"] = await train(*both, slow_rate=RATE)
            found["after separate and reptile"] = await weights("separate-export")
            await policy.load(folder / "separate")
            await train(*both, slow_rate=RATE)
            found["the same, resumed"] = await weights("resumed-export")
        finally:
            policy.kill()
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
    group, rows = plain.sequences()
    loss, gradient = plain.gradients(initial, initial, group, rows, PLAIN)
    first = outcomes[key]["first"].metrics
    assert first["loss/joint"] == pytest.approx(loss, rel=1e-5)
    assert first["policy/grad_norm"] == pytest.approx(plain.norm(gradient), rel=1e-4)
    assert first["policy/ratio_p99"] == 1.0
    assert first["batch/signal_tokens"] == sum(row.trained_tokens for row in rows)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", LOSSES)
def test_every_term_of_the_loss_equals_a_plain_reference(outcomes, initial, trained, name, key):
    group, rows = plain.sequences()
    if name == "kl in the return":
        rows = plain.with_kl_in_the_return(trained, initial, group, rows, PENALTY)
    if name.startswith("guided"):
        rows = plain.with_guided(rows)
    value, gradient = plain.gradients(trained, initial, group, rows, LOSSES[name])
    found = outcomes[key][name].metrics
    assert found["loss/joint"] == pytest.approx(value, rel=1e-4, abs=1e-5)
    assert found["policy/grad_norm"] == pytest.approx(plain.norm(gradient), rel=2e-3)
    assert (found["policy/reference_kl"] != 0) == LOSSES[name].needs_reference
    assert ("guide/ratio_mean" in found) == name.startswith("guided")


@pytest.mark.parametrize("key", KEYS)
def test_lesson_conditioned_credit_equals_a_plain_reference(outcomes, trained, key):
    group, rows = plain.sequences()
    attempts, _ = plain.by_kind(rows)
    found = outcomes[key]["hints"]
    assert set(found) == {row.index for row in attempts}
    for row in attempts:
        expected = plain.hint_credit(trained, group, row)
        torch.testing.assert_close(found[row.index].float(), expected.float(), rtol=0, atol=1e-3)
        assert float((expected - row.credit).abs().max()) > 0.01


@pytest.mark.parametrize("key", KEYS)
def test_staleness_is_measured_over_all_ranks(outcomes, trained, key):
    group, rows = plain.sequences()
    attempts, _ = plain.by_kind(rows)
    found = outcomes[key]["stale"].metrics
    assert (found["staleness/mean"], found["staleness/max"], found["staleness/share/2"]) == (2.0, 2.0, 1.0)
    assert "mismatch/max" not in found
    # of the first mini-batch: after its step, the policy before the update is no longer known
    now = plain.all_logprobs(trained, group, attempts[:3])
    ratios = [now[index] - torch.tensor(group.trajectories[index].logprobs) for index in now]
    median = torch.cat(ratios).double().quantile(0.5).exp().item()
    assert found["staleness/ratio_p50/2"] == pytest.approx(median, rel=5e-3)


@pytest.mark.parametrize("key", KEYS)
def test_the_two_gradients_are_measured_and_balanced(outcomes, initial, trained, key):
    group, rows = plain.sequences()
    policy, experience = (plain.gradients(trained, initial, group, part, PLAIN)[1] for part in plain.by_kind(rows))
    norms = plain.norm(policy), plain.norm(experience)
    found = outcomes[key]["split"].metrics
    assert found["gradient/policy_norm"] == pytest.approx(norms[0], rel=2e-3)
    assert found["gradient/experience_norm"] == pytest.approx(norms[1], rel=2e-3)
    assert found["gradient/cosine"] == pytest.approx(plain.dot(policy, experience) / norms[0] / norms[1], abs=2e-3)
    assert found["policy/grad_norm"] == pytest.approx(plain.norm(plain.combined(policy, experience)), rel=2e-3)
    balanced = plain.combined(policy, experience, 0.3 * norms[0] / norms[1])
    assert outcomes[key]["balanced"].metrics["policy/grad_norm"] == pytest.approx(plain.norm(balanced), rel=2e-3)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("of_reference", [False, True], ids=["current", "reference"])
def test_scores_are_the_logprobs_of_the_trained_tokens(outcomes, initial, trained, of_reference, key):
    group, rows = plain.sequences()
    expected = plain.all_logprobs(initial if of_reference else trained, group, rows)
    for index, logprobs in outcomes[key]["scores"][of_reference].items():
        torch.testing.assert_close(logprobs, expected.pop(index), rtol=0, atol=5e-4)
    assert not expected


@pytest.mark.parametrize("key", KEYS)
def test_separate_optimizers_and_reptile_equal_plain_ones(outcomes, initial, key):
    group, rows = plain.sequences()
    model, (attempts, lessons) = plain.load(), plain.by_kind(rows)
    usual, own = plain.adamw(model, LR), plain.adamw(model, LR * 0.5)
    start = [p.detach().clone() for p in model.parameters()]
    plain.apply(usual, model, plain.gradients(model, initial, group, rows, PLAIN)[1], MAX_NORM)
    for _ in range(2):
        plain.apply(usual, model, plain.gradients(model, initial, group, attempts, PLAIN)[1], MAX_NORM)
        plain.apply(own, model, plain.gradients(model, initial, group, lessons, PLAIN)[1], MAX_NORM)
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
    group, rows = plain.sequences()
    model, (attempts, lessons) = plain.load(), plain.by_kind(rows)
    usual, own = plain.adamw(model, LR), plain.adamw(model, LR)
    plain.apply(usual, model, plain.gradients(model, initial, group, rows, PLAIN)[1], MAX_NORM)  # the checkpoint
    old = plain.all_logprobs(model, group, attempts)
    plan = {"after two": [(usual, attempts[:3]), (usual, attempts[3:])] * 2,
            "after lessons first": [(own, lessons), (usual, attempts)]}[case]  # fmt: skip
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
