"""The driver with fakes that implement its ports: the step of the paper, its order, its ledger, its loop."""

import pytest

from mel_ray.config.load import compose_config
from mel_ray.data.prompts import PromptStream
from mel_ray.run.checkpoints import Checkpoints, latest_checkpoint
from mel_ray.evaluation.evaluator import Benchmark, Evaluator
from mel_ray.driver.loop import Loop, Progress
from mel_ray.driver.state import DriverState
from mel_ray.driver.step import Stepper
from mel_ray.records import DraftState, Outcome
from tests.driver.fakes import (
    FakeArchive,
    FakeEngines,
    FakeExperience,
    FakeJournal,
    FakeJournals,
    FakePolicy,
    FakeRollout,
    FakeSink,
    FakeVerifier,
    World,
)
from tests.unit.builders import prompt


def make(world: World, *overrides: str, state: DraftState = DraftState.PARSED, position: int = 0):
    questions = [prompt(question_id=name) for name in sorted(world.outcomes)]
    sizes = [
        f"rollout.prompts_per_step={len(questions)}",
        f"rollout.group_size={len(next(iter(world.outcomes.values())))}",
    ]
    cfg = compose_config([*sizes, *overrides])
    policy, rollout = FakePolicy(world), FakeRollout(world)
    data, experience = PromptStream(questions, 0, position), FakeExperience(world, state)
    stepper = Stepper(cfg, data, rollout, FakeVerifier(world), experience, policy,
                      FakeEngines(), FakeArchive(world))  # fmt: skip
    return stepper, policy, rollout


def specs_of(update):
    return [spec for step in update.steps for row in step.shards for microbatch in row for spec in microbatch
            if spec.pg_weight or spec.nll_weight]  # fmt: skip


def planned(policy):
    return specs_of(policy.updates[0])


def with_prompts(cfg, count, factor):
    dynamic = cfg.algorithm.dynamic_sampling.model_copy(update={"max_factor": factor})
    algorithm = cfg.algorithm.model_copy(update={"dynamic_sampling": dynamic})
    rollout = cfg.rollout.model_copy(update={"prompts_per_step": count})
    return cfg.model_copy(update={"algorithm": algorithm, "rollout": rollout})


async def test_a_step_explores_trains_and_publishes():
    world = World({"mixed": "cw", "right": "cc", "wrong": "ww"})
    stepper, policy, _ = make(world)
    report = await stepper.step(1)
    assert [event for event in world.events if event[0] == "abstracted"] == [("abstracted", "mixed")]
    assert report.metrics["mel/kept"] == report.metrics["mel/pairs"] == 1
    assert report.metrics["reward/mean"] == pytest.approx(0.5)
    assert report.metrics["group/mixed_share"] == pytest.approx(1 / 3)
    assert report.ledger.is_balanced
    assert world.events.index(("published", "1")) > world.events.index(("trained", "1"))
    assert {spec.ref for spec in planned(policy)} == {"group-mixed", "drafts-mixed"}


async def test_no_question_waits_for_another():
    world = World({"fast": "cw", "slow": "cw"}, delays={"slow": 0.3})
    stepper, _, _ = make(world)
    await stepper.step(1)
    assert world.events.index(("replayed", "drafts-fast")) < world.events.index(("generated", "slow"))


async def test_without_mel_the_step_is_plain_grpo_with_the_same_seeds():
    outcomes = {"a": "cw", "b": "wc"}
    with_mel, plain = World(outcomes), World(outcomes)
    one, _, rollout_one = make(with_mel)
    other, policy, rollout_other = make(plain, "mel.enabled=false")
    await one.step(1)
    report = await other.step(1)
    assert rollout_one.seeds == rollout_other.seeds
    assert not any(what in ("abstracted", "replayed") for what, _ in plain.events)
    assert report.metrics["mel/pairs"] == 0
    assert not any(spec.nll_weight for spec in planned(policy))


async def test_seeds_differ_between_steps_questions_and_samples():
    world = World({"a": "cw", "b": "cw"})
    stepper, _, rollout = make(world)
    await stepper.step(1)
    await stepper.step(2)
    seeds = [seed for group in rollout.seeds for seed in group]
    assert len(set(seeds)) == len(seeds) == 8


async def test_a_step_without_signal_trains_nothing_and_publishes_nothing():
    world = World({"a": "cc", "b": "ww"})
    stepper, _, _ = make(world)
    report = await stepper.step(1)
    assert stepper.version == 0
    assert not any(what == "published" for what, _ in world.events)
    assert report.metrics["batch/skipped_minibatches"] == 1
    assert ("recorded", "1") in world.events


@pytest.mark.parametrize(
    ("replay", "state", "fate"),
    [
        ("w", DraftState.PARSED, "replay_failed"),
        ("t", DraftState.PARSED, "replay_unverified"),
        ("c", DraftState.PARSE_FAILURE, "parse_failure"),
        ("c", DraftState.LEAKED_ANSWER, "leaked_answer"),
    ],
)
async def test_drafts_that_are_not_proven_are_counted_and_not_trained(replay, state, fate):
    stepper, policy, _ = make(World({"a": "cw"}, replay=replay), state=state)
    report = await stepper.step(1)
    assert report.ledger.drafts[fate] == 1
    assert report.metrics["mel/kept"] == 0
    assert not any(spec.nll_weight for spec in planned(policy))


async def test_a_failing_pool_stops_the_step():
    class Broken(FakeVerifier):
        async def judge(self, group):
            raise RuntimeError("the verifier is gone")

    stepper, policy, _ = make(World({"a": "cw", "b": "cw"}))
    stepper.verifier = Broken(World({}))
    with pytest.raises(ExceptionGroup) as caught:
        await stepper.step(1)
    assert "the verifier is gone" in str(caught.value.exceptions[0])
    assert not policy.updates


def make_loop(tmp_path, world: World, *overrides: str, state: DriverState | None = None):
    state = state or DriverState()
    stepper, policy, rollout = make(world, *overrides, position=state.position)
    cfg, sink, progress = stepper.cfg, FakeSink(), Progress(state)
    benchmark = Benchmark("held", (prompt(question_id=sorted(world.outcomes)[0]),))
    loop = Loop(cfg, stepper, policy, Evaluator(cfg, rollout, FakeVerifier(world)), [benchmark],
                FakeJournals(), Checkpoints(tmp_path, cfg.checkpoint.keep, [policy]), [sink], progress)  # fmt: skip
    return loop, sink, progress, policy


async def test_the_loop_evaluates_steps_and_checkpoints(tmp_path):
    world = World({"a": "cw"})
    overrides = ("run.steps=4", "eval.every=2", "eval.samples=2", "checkpoint.every=1", "checkpoint.keep=2")
    loop, sink, progress, _ = make_loop(tmp_path, world, *overrides)
    await loop.run()
    assert [report.step for report in sink.steps] == [1, 2, 3, 4]
    assert [report.step for report in sink.evaluations] == [0, 2, 4]
    scores = sink.evaluations[0].scores
    assert (scores["pass@1"], scores["avg@2"], scores["pass@2"], scores["truncated"]) == (1.0, 0.5, 1.0, 0.0)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-000003", "step-000004"]
    assert not list(tmp_path.glob(".step*"))
    latest = latest_checkpoint(tmp_path)
    assert latest.name == "step-000004"
    assert DriverState.read(latest / "driver.json") == progress.state
    assert progress.state.ledger.sampled_trajectories == 8


async def test_a_resumed_loop_continues_and_repeats_nothing(tmp_path):
    outcomes = dict.fromkeys("abcdef", "cw")
    whole, resumed = World(outcomes), World(outcomes)
    loop, _, _, _ = make_loop(tmp_path / "whole", whole, "run.steps=4", "rollout.prompts_per_step=2")
    await loop.run()
    first, _, progress, _ = make_loop(tmp_path / "cut", resumed, "run.steps=2", "rollout.prompts_per_step=2")
    await first.run()
    state = DriverState.read(latest_checkpoint(tmp_path / "cut") / "driver.json")
    second, later, _, _ = make_loop(tmp_path / "cut", resumed, "run.steps=4", "rollout.prompts_per_step=2", state=state)
    await second.run()
    assert [report.step for report in later.steps] == [3, 4]
    taken = [who for what, who in whole.events if what == "abstracted"]
    assert [who for what, who in resumed.events if what == "abstracted"] == taken
    assert progress.state.position == 4


async def test_an_incomplete_checkpoint_is_never_the_latest(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    (tmp_path / "step-000009").mkdir()
    (tmp_path / ".step-000008.partial").mkdir()
    (tmp_path / "latest").write_text("step-000009")
    assert latest_checkpoint(tmp_path) is None
    await Checkpoints(tmp_path, 2, [FakePolicy(World({}))]).save(DriverState(step=9))
    assert latest_checkpoint(tmp_path).name == "step-000009"


async def test_known_pass_counts_give_known_scores():
    # greedy takes the first verdict of each question; of 4 samples 2, 4 and 0 are correct
    world = World({"a": "ccww", "b": "cccc", "c": "wwww"})
    stepper, _, rollout = make(world, "eval.samples=4", "eval.pass_k=[2,4]")
    evaluator = Evaluator(stepper.cfg, rollout, FakeVerifier(world))
    benchmark = Benchmark("held", tuple(prompt(question_id=name) for name in "abc"))
    scores = (await evaluator.evaluate(benchmark, 0, FakeJournal())).scores
    assert scores["pass@1"] == pytest.approx(2 / 3)  # greedy: a and b
    assert scores["avg@4"] == pytest.approx(0.5)
    assert scores["pass@2"] == pytest.approx((1 - 1 / 6 + 1) / 3)  # 1 - C(2,2)/C(4,2) for question a
    assert scores["pass@4"] == pytest.approx(2 / 3)


async def test_what_the_journal_knows_is_not_asked_again():
    from mel_ray.records.evaluation import Answered

    world = World({"a": "cw", "b": "cw"})
    stepper, _, rollout = make(world, "eval.samples=2")
    known = Answered((Outcome.CORRECT,) * 2, (3, 3), ("stop", "stop"))
    journal = FakeJournal({("a", 0.6): known})
    evaluator = Evaluator(stepper.cfg, rollout, FakeVerifier(world))
    await evaluator.results(Benchmark("held", (prompt(question_id="a"), prompt(question_id="b"))), journal)
    assert sorted(journal.added) == [("a", 0.0), ("b", 0.0), ("b", 0.6)]


async def test_a_verifier_that_mostly_fails_stops_the_run_with_examples():
    stepper, policy, _ = make(World(dict.fromkeys("abcdefghijklmnop", "ctttw")))
    with pytest.raises(RuntimeError, match=r"failed on 48 of the last 80 answers.*max_failure_rate=0.2"):
        await stepper.step(1)
    assert not policy.updates


async def test_dynamic_sampling_asks_on_until_enough_groups_are_mixed():
    # the stream in its shuffled order; three of the eight are mixed
    world = World({name: ("cw" if name in "beh" else "cc") for name in "abcdefgh"}, delays={"b": 0.05, "e": 0.02})
    stepper, policy, _ = make(world, "algorithm=dapo", "mel.enabled=false")
    stepper.cfg = with_prompts(stepper.cfg, 2, 4.0)
    report = await stepper.step(1)
    order = [p.question_id for p in PromptStream([prompt(question_id=n) for n in "abcdefgh"], 0).take(8)]
    wanted = [name for name in order if name in "beh"][:2]
    asked = {who for what, who in world.events if what == "generated"}
    assert asked == set(order[: order.index(wanted[1]) + 1])  # the shortest stretch that holds two
    assert {spec.ref for spec in planned(policy)} == {f"group-{name}" for name in wanted}
    assert report.ledger.is_balanced
    assert report.metrics["batch/filtered_share"] == pytest.approx(1 - 2 / len(asked))


async def test_dynamic_sampling_stops_at_its_cap():
    world = World(dict.fromkeys("abcdefgh", "cc"))
    stepper, policy, _ = make(world, "algorithm=dapo", "mel.enabled=false")
    stepper.cfg = with_prompts(stepper.cfg, 2, 3.0)
    report = await stepper.step(1)
    assert len([e for e in world.events if e[0] == "generated"]) == 6
    assert policy.updates == []
    assert report.metrics["batch/questions"] == 6


async def test_kl_in_the_reward_asks_the_policy_first():
    world = World({"a": "cw", "b": "wc"})
    stepper, policy, _ = make(
        world, "algorithm=dr_grpo", "algorithm.kl.coefficient=0.5", "algorithm.kl.where=reward", "mel.enabled=false"
    )
    await stepper.step(1)
    assert world.events.index(("measured", "4")) < world.events.index(("trained", "1"))
    # the fake's KL is 1 for the first trajectory of a group: rewards 1 - 0.5 and 0, then -0.5 and 1, centred
    found = {(spec.ref, spec.index): spec.advantage for spec in planned(policy)}
    assert found == {("group-a", 0): 0.25, ("group-a", 1): -0.25, ("group-b", 0): -0.75, ("group-b", 1): 0.75}


async def test_the_update_follows_the_configuration():
    world = World({"a": "cw", "b": "wc"})
    stepper, policy, _ = make(
        world, "algorithm=gspo", "algorithm.epochs=3", "mel.reptile.every=2", "mel.reptile.rate=0.25",
        "mel.combination=separate", "mel.weight=0.5", "algorithm.lr=1e-3", "algorithm.warmup_steps=0",
    )  # fmt: skip
    await stepper.step(1)
    await stepper.step(2)
    first, second = policy.updates
    assert (first.epochs, first.loss.surrogate, first.lr) == (3, "sequence_clipped", 1e-3)
    assert [(step.optimizer, step.lr_factor) for step in first.steps] == [("policy", 1.0), ("experience", 0.5)]
    assert (first.slow_rate, second.slow_rate) == (None, 0.25)


async def test_the_weight_of_meta_experience_follows_its_schedule():
    world = World({"a": "cw"})
    stepper, policy, _ = make(world, "mel.weight=1.0", "mel.weight_warmup_steps=4", "mel.memory.size=8",
                              "mel.memory.weight=0.2")  # fmt: skip
    for step in (1, 2):
        await stepper.step(step)
    weights = [
        sum(spec.nll_weight * spec.completion_tokens for spec in specs_of(update) if spec.is_experience)
        for update in policy.updates
    ]
    # a quarter of the weight; then half, and a fifth of that for the one remembered from step 1
    assert weights == pytest.approx([0.25, 0.5 + 0.1])
