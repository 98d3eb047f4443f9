"""Every algorithm, with and without meta-experience, and every option of it: three real steps each on the embedded
default, sharing one Ray and one start of all pools."""

import asyncio
import math

import pytest

from benchmarks.common import renew_experience
from mel_ray.config.checks import find_problems
from mel_ray.config.load import compose_config
from mel_ray.data.model_folder import locate_model
from mel_ray.data.prepare import prepare
from mel_ray.driver.wiring import Pools, make_loop
from mel_ray.records.ledger import TrajectoryFate

SMALL = ["rollout.prompts_per_step=6", "rollout.group_size=6", "eval.benchmarks=[]", "cluster.rollout.engines=1"]
ALGORITHMS = ["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "gspo", "cispo", "dapo", "rft"]
# What any of the cases below may need of the policy pool: a reference and slow weights.
SHARED = ["algorithm.kl.coefficient=0.01", "mel.reptile.every=1"]
OPTIONS = [
    ["algorithm.minibatches=2", "algorithm.epochs=2"],
    ["algorithm.kl.coefficient=0.01", "algorithm.entropy_coefficient=0.01", "algorithm.importance_cap=2.0"],
    ["algorithm=reinforce_pp", "algorithm.kl.coefficient=0.01", "algorithm.kl.where=reward",
     "algorithm.kl.estimator=k1"],
    ["mel.context=question", "mel.sections=heuristics"],
    ["mel.target=replay", "mel.replays=2", "mel.combination=balanced"],
    ["mel.combination=separate", "observe.gradient_split_every=1", "mel.pair_choice=hardest",
     "mel.normalisation=question"],
    ["mel.memory.size=8", "mel.reptile.every=2", "mel.pair_choice=shortest_correct_longest_common_prefix"],
    ["observe.gradient_split_every=1"],
]  # fmt: skip


class Discard:
    async def record(self, step, rows, version=0) -> None:
        return None


@pytest.fixture(scope="module")
def shared(ray_session, tmp_path_factory):
    """All pools and the initial checkpoint, and the one event loop they live in."""
    config = compose_config([*SMALL, *SHARED])
    folder = tmp_path_factory.mktemp("algorithms")
    with asyncio.Runner() as runner:
        pools = Pools(config, locate_model(config.model.path), folder / "logs")
        runner.run(pools.ready())
        runner.run(pools.policy.save(folder / "initial"))
        yield pools, runner, folder / "initial"
        pools.kill()


async def three_steps(pools, initial, overrides):
    config = compose_config([*SMALL, "algorithm.lr=4e-4", "algorithm.warmup_steps=0", *overrides])
    assert find_problems(config) == []
    await pools.policy.load(initial)
    await pools.publisher.publish(0)
    if any(word.startswith("mel.") and not word.startswith("mel.enabled") for word in overrides):
        await renew_experience(pools, config)
    loop = make_loop(config, pools, prepare(config).prompts.prompts, Discard())
    return loop, [await loop.step(step) for step in (1, 2, 3)]


def check(config_words, reports):
    for report in reports:
        assert report.ledger.is_balanced
        assert report.ledger.trajectories[TrajectoryFate.TRAINED] > 0
        assert all(math.isfinite(value) for value in report.metrics.values())
        assert report.metrics["batch/signal_tokens"] > 0
        # The engines sampled with the very weights that are trained: every publish arrived.
        assert report.metrics["mismatch/max"] < 1e-3
    assert reports[-1].metrics["policy/version"] == 3


@pytest.mark.parametrize("is_mel", [True, False], ids=["mel", "plain"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_three_real_steps(shared, algorithm, is_mel):
    pools, runner, initial = shared
    words = [f"algorithm={algorithm}", f"mel.enabled={str(is_mel).lower()}"]
    _, reports = runner.run(three_steps(pools, initial, words))
    check(words, reports)
    kept = sum(report.metrics["mel/kept"] for report in reports)
    assert (kept > 0) == is_mel
    assert any("mel/nll" in report.metrics for report in reports) == is_mel


@pytest.mark.parametrize("words", OPTIONS, ids=lambda words: words[0])
def test_options(shared, words, tmp_path):
    pools, runner, initial = shared
    loop, reports = runner.run(three_steps(pools, initial, words))
    check(words, reports)
    last = reports[-1].metrics
    match words[0]:
        case "algorithm.minibatches=2":
            assert last["batch/optimizer_steps"] == 4
            assert last["policy/ratio_p99"] > 1.0  # the second pass is no longer on policy
        case "algorithm.kl.coefficient=0.01":
            assert last["policy/reference_kl"] > 0
        case "algorithm=reinforce_pp":
            assert abs(last["policy/reference_kl"]) > 0
        case "mel.context=question":
            # after the bare question nothing announces a lesson; after its own context it costs 0.05 nats
            assert reports[0].metrics["mel/nll"] > 0.3
        case "mel.target=replay":
            # the balance bounds the sum of both gradients
            norm, policy = last["policy/grad_norm"], last["gradient/policy_norm"]
            assert 0.69 * policy <= norm <= 1.31 * policy
            assert last["gradient/experience_norm"] != pytest.approx(0.3 * policy, rel=1e-3)
        case "mel.combination=separate" | "observe.gradient_split_every=1":
            assert last["gradient/experience_norm"] > 0
            assert -1 < last["gradient/cosine"] < 1
        case "mel.memory.size=8":
            assert last["mel/past"] > 0
            memory = loop.learner.memory
            born = [step for step, _ in memory.entries]
            runner.run(memory.save(tmp_path))
            memory.entries = []
            runner.run(memory.load(tmp_path))
            assert [step for step, _ in memory.entries] == born
            # what was restored can be trained on
            report = runner.run(loop.step(4))
            assert report.metrics["mel/past"] > 0


def test_a_step_is_the_same_when_repeated(shared):
    pools, runner, initial = shared
    words = ["algorithm=grpo"]
    first, second = (runner.run(three_steps(pools, initial, words))[1] for _ in range(2))
    for one, other in zip(first, second, strict=True):
        names = [name for name in one.metrics if not name.startswith(("time/", "engine/", "speed/"))]
        assert [one.metrics[name] for name in names] == pytest.approx([other.metrics[name] for name in names])
