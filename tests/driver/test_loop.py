"""driver/loop.py with fakes that implement its ports: the step of the paper, its order, its ledger, and resuming."""

import asyncio
from dataclasses import replace

import pytest

from benchmarks.simulated_time import simulate
from mel_ray.driver.loop import Stopped, Watch
from mel_ray.driver.state import RunState
from mel_ray.evaluation.evaluator import Evaluator
from mel_ray.records.evaluation import Benchmark
from mel_ray.run.checkpoints import Checkpoints, best_checkpoint, latest_checkpoint
from tests.driver.fakes import FakeArchive, FakeJournals, FakePublisher, FakeRewards, FakeSink, World, make
from tests.unit.builders import LENGTH, prompt


async def test_a_step_explores_trains_and_publishes():
    world = World({"mixed": "cw", "right": "cc", "wrong": "ww"})
    system = make(world)
    report = await system.step(1)
    assert world.who("abstracted") == ["mixed"]
    assert report.metrics["mel/kept"] == report.metrics["mel/pairs"] == 1
    assert report.metrics["reward/mean"] == pytest.approx(0.5)
    assert report.metrics["group/mixed_share"] == pytest.approx(1 / 3)
    assert report.ledger.is_balanced
    assert world.events.index(("published", "1")) > world.events.index(("trained", "1"))
    assert {row.ref for row in system.trained()} == {"group-mixed", "drafts-mixed"}
    assert report.metrics["batch/trained_sequences"] == 3


async def test_without_mel_the_step_is_that_of_the_algorithm_alone():
    world = World({"a": "cw", "b": "wc"})
    system = make(world, "mel.enabled=false")
    report = await system.step(1)
    assert not {"abstracted", "replayed"} & dict(world.events).keys()
    assert report.metrics["mel/pairs"] == 0
    assert not any(row.nll_weight for row in system.trained())


async def test_a_step_without_signal_trains_nothing_and_publishes_nothing():
    world = World({"a": "cc", "b": "ww"})
    system = make(world)
    report = await system.step(1)
    assert (system.loop.state.version, report.metrics["policy/version"]) == (0, 0)
    assert world.who("published") == []
    assert report.metrics["batch/skipped_minibatches"] == 1
    assert world.who("recorded") == ["1"]


async def test_a_step_of_lessons_that_nothing_balances_says_that_nothing_was_trained():
    # every attempt is cut off and left out, so no mini-batch is made: the lesson was proven, and is not trained
    world = World({"a": "cw"})
    system = make(world, "mel.combination=balanced", "algorithm.mask_truncated=true")
    generate = system.rollout.generate

    async def truncated(prompt, sampling):
        return tuple(replace(row, finish_reason=LENGTH) for row in await generate(prompt, sampling))

    system.rollout.generate = truncated
    report = await system.step(1)
    assert (report.ledger.drafts, report.metrics["mel/kept"]) == ({"skipped": 1}, 1)
    assert report.ledger.trajectories == {"truncated": 2}
    assert report.metrics["batch/skipped_minibatches"] == 1
    assert report.metrics["batch/trained_sequences"] == 0
    assert system.policy.updates == []


@pytest.mark.parametrize("what", ["explore", "train", "publish"])
async def test_a_step_that_fails_leaves_the_state_as_it_was(what):
    system = make(World({"a": "cw"}))

    async def broken(*arguments):
        raise RuntimeError(f"{what} failed")

    part, name = {
        "explore": (system.rollout, "generate"),
        "train": (system.policy, "train"),
        "publish": (system.loop.publisher, "publish"),
    }[what]
    setattr(part, name, broken)
    with pytest.raises((RuntimeError, ExceptionGroup)):
        await system.step(1)
    assert system.loop.state == RunState()
    # what was explored is kept, whatever failed afterwards
    assert len(system.archive.rows) == (what != "explore")


async def test_publishing_is_not_timed_with_the_archive():
    class Slow(FakeArchive):
        async def record(self, step, rows, version=0):
            while "published" not in dict(self.world.events):
                await asyncio.sleep(0)
            await super().record(step, rows, version)

    world = World({"a": "cw"})
    system = make(world)
    system.learner.archive = Slow(world)
    report = await system.step(1)
    assert world.events.index(("published", "1")) < world.events.index(("recorded", "1"))
    assert {"time/explore", "time/train", "time/publish", "time/archive", "time/step"} <= report.metrics.keys()


async def test_a_verifier_that_mostly_fails_stops_the_run_with_examples():
    system = make(World(dict.fromkeys("abcdefghijklmnop", "ctttw")))
    with pytest.raises(RuntimeError, match=r"failed on 48 of the last 80 answers.*max_failure_rate=0.2"):
        await system.step(1)
    assert not system.policy.updates


async def test_metrics_count_what_dynamic_sampling_threw_away():
    world = World(dict.fromkeys("abcdefgh", "cc"))
    dapo = ("algorithm=dapo", "mel.enabled=false", "rollout.prompts_per_step=2")
    system = make(world, *dapo, "algorithm.dynamic_sampling.max_factor=3.0")
    report = await system.step(1)
    assert system.policy.updates == []
    assert report.metrics["batch/questions"] == 6
    assert report.metrics["batch/filtered_share"] == 1
    assert report.metrics["group/all_correct_share"] == 1


def make_run(tmp_path, world: World, *overrides: str, state: RunState | None = None, done=None):
    state = state or RunState()
    system, sink, journals = make(world, *overrides, run_state=state), FakeSink(), FakeJournals()
    benchmark = Benchmark("held", (prompt(question_id=sorted(world.outcomes)[0]),))
    evaluation = Evaluator(system.cfg, system.rollout, FakeRewards(world))
    checkpoints = Checkpoints(tmp_path, system.cfg.checkpoint, [system.learner.memory], system.policy)
    return system, sink, Watch(state, evaluation, [benchmark], journals, checkpoints, [sink], done=done)


async def test_the_loop_evaluates_steps_and_checkpoints(tmp_path):
    overrides = ("run.steps=4", "eval.every=2", "eval.samples=2", "checkpoint.every=1", "checkpoint.keep=2")
    system, sink, watch = make_run(tmp_path, World({"a": "cw"}), *overrides)
    await system.loop.run(watch)
    assert [report.step for report in sink.steps] == [1, 2, 3, 4]
    assert [report.step for report in sink.evaluations] == [0, 2, 4]
    scores = sink.evaluations[0].scores
    assert (scores["pass@1"], scores["avg@2"], scores["pass@2"], scores["truncated"]) == (1.0, 0.5, 1.0, 0.0)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-000003", "step-000004"]
    assert not list(tmp_path.glob(".step*"))
    latest = latest_checkpoint(tmp_path)
    assert latest.name == "step-000004"
    assert RunState.read(latest) == system.loop.state
    assert system.loop.state.ledger.sampled_trajectories == 8


async def test_engines_begin_with_the_trainers_very_weights(tmp_path):
    world = World({"a": "cw"})
    system, _, watch = make_run(tmp_path, world, "run.steps=6", state=RunState(step=5, version=4))
    await system.loop.run(watch)
    assert world.events[0] == ("published", "4")
    assert world.who("published") == ["4", "5"]


@pytest.mark.parametrize("memory", ["mel.memory.size=0", "mel.memory.size=8"])
async def test_a_resumed_loop_continues_and_repeats_nothing(tmp_path, memory):
    outcomes = dict.fromkeys("abcdef", "cw")
    whole, resumed = World(outcomes), World(outcomes)
    common = ("rollout.prompts_per_step=2", memory)
    system, uninterrupted, watch = make_run(tmp_path / "whole", whole, "run.steps=4", *common)
    await system.loop.run(watch)
    first, _, watch = make_run(tmp_path / "cut", resumed, "run.steps=2", *common)
    await first.loop.run(watch)
    checkpoint = latest_checkpoint(tmp_path / "cut")
    state = RunState.read(checkpoint)
    assert state.position == 4
    second, later, watch = make_run(tmp_path / "cut", resumed, "run.steps=4", *common, state=state)
    await second.learner.memory.load(checkpoint)
    await second.loop.run(watch)
    assert [report.step for report in later.steps] == [3, 4]
    assert resumed.who("abstracted") == whole.who("abstracted")
    for one, other in zip(uninterrupted.steps[2:], later.steps, strict=True):
        timed = {name for name in one.metrics if name.startswith("time/")}
        assert {n: v for n, v in one.metrics.items() if n not in timed} == {
            n: v for n, v in other.metrics.items() if n not in timed
        }
    assert second.loop.state == system.loop.state


async def test_engines_that_share_their_gpus_sleep_while_the_policy_trains_and_wake_with_new_weights(tmp_path):
    world = World({"a": "cw"})
    system, _, watch = make_run(
        tmp_path, world, "run.steps=2", "cluster=1x1", "checkpoint.every=0", "eval.after=false", "eval.before=false"
    )
    await system.loop.run(watch)
    kinds = [kind for kind, _ in world.events if kind in ("asleep", "awake", "published", "trained")]
    turn = ["awake", "published", "awake"]
    assert kinds == [*turn, "asleep", "trained", *turn, "asleep", "trained", *turn]
    assert [part for kind, part in world.events if kind == "awake"] == ["weights", "kv_cache"] * 3


async def test_a_state_that_cannot_be_read_is_an_error(tmp_path):
    for content in (None, "{", '{"step": 1}'):
        if content is not None:
            (tmp_path / "driver.json").write_text(content)
        with pytest.raises((OSError, ValueError, KeyError)):
            RunState.read(tmp_path)


async def test_the_publisher_is_asked_for_the_version_that_the_state_then_has():
    world = World({"a": "cw"})
    system = make(world)
    seen = []

    class Publisher(FakePublisher):
        async def publish(self, version, keep_kv=False):
            seen.append((version, system.loop.state.version))

    system.loop.publisher = Publisher(world)
    for step in (1, 2):
        await system.step(step)
    assert seen == [(1, 0), (2, 1)]
    assert (system.loop.state.version, system.loop.state.step) == (2, 2)


async def test_a_batch_is_explored_by_the_very_weights_that_are_then_trained():
    world = World({"a": "cw"})
    system = make(world)
    for step in (1, 2):
        await system.step(step)
    order = [what for what, _ in world.events if what in ("generated", "trained", "published")]
    assert order == ["generated", "trained", "published"] * 2


class Watched:
    """Notes what is saved, and after which step."""

    def __init__(self, system):
        self.system, self.saved = system, []

    def report(self, report):
        return None

    async def keep(self):
        return None

    async def evaluate(self, step):
        self.system.world.note("evaluated", step)
        await asyncio.sleep(self.system.world.delays.get("evaluation", 0))

    async def save_now(self, again=False):
        self.saved.append((self.system.loop.state.step, sum(one.explored is not None for one in asked_of(self.system))))


def asked_of(system):
    return system.loop.buffer.batches.asked


def train_slowly(system):
    train = system.policy.train

    async def slowly(steps, settings):
        await asyncio.sleep(10)
        return await train(steps, settings)

    system.policy.train = slowly


def stopped_after(system, seconds):
    async def main():
        asyncio.get_running_loop().call_later(seconds, system.loop.stopping.set)
        watch = Watched(system)
        with pytest.raises(ExceptionGroup) as raised:
            await system.loop.run(watch)
        assert isinstance(raised.value.exceptions[0], Stopped)
        return watch

    return simulate(main())


@pytest.mark.parametrize(("seconds", "step", "explored"), [(3.0, 0, 1), (15.0, 1, 1)])
def test_a_run_that_is_to_stop_saves_what_it_has_explored_and_waits_for_nothing_else(seconds, step, explored):
    """One of its two questions takes ten seconds."""
    system = make(World({"a": "cw", "b": "wc"}, delays={"a": 10.0, "b": 1.0}), "run.steps=3", "eval.before=false")
    watch = stopped_after(system, seconds)
    assert watch.saved == [(step, explored)]
    assert len(system.policy.updates) == step


def test_a_run_that_is_to_stop_does_not_train_what_is_ready():
    """Exploring takes no time here, so that with a capacity the next batch is always there."""
    system = make(World({"a": "cw"}), "run.steps=40", "eval.before=false", "driver.capacity=1")
    train_slowly(system)
    watch = stopped_after(system, 25.0)
    assert [step for step, _ in watch.saved] == [3]


def test_a_run_that_is_to_stop_gives_up_an_evaluation():
    system = make(World({"a": "cw"}, delays={"evaluation": 100.0}), "run.steps=3", "eval.before=true")
    watch = stopped_after(system, 5.0)
    assert watch.saved == [(0, 0)]
    assert system.world.who("evaluated") == ["0"]
    assert system.policy.updates == []


def test_a_run_that_is_to_stop_while_it_trains_finishes_the_step():
    system = make(World({"a": "cw"}), "run.steps=3", "eval.before=false")
    train_slowly(system)
    watch = stopped_after(system, 5.0)
    assert watch.saved == [(1, 0)]
    assert system.world.who("published")[-1] == "1"


@pytest.mark.parametrize(("done", "evaluated"), [((), [2, 4]), ((2,), [4]), ((2, 4), [])])
async def test_an_interrupted_run_evaluates_what_was_left_out_and_nothing_twice(tmp_path, done, evaluated):
    overrides = ("run.steps=4", "eval.every=2", "checkpoint.keep_best=held/pass@1")
    scores = {(step, "held"): {"pass@1": 2.0} for step in done}
    system, sink, watch = make_run(tmp_path, World({"a": "cw"}), *overrides, state=RunState(step=2), done=scores)
    await system.loop.run(watch)
    assert [report.step for report in sink.evaluations] == evaluated
    if done:  # what was found before the interruption still counts
        assert best_checkpoint(tmp_path).checkpoint == "step-000002"
