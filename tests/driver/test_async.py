"""Exploring and learning at the same time, in virtual time: random capacities, modes, speeds and orders of arrival."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulated import Lengths, Workload
from mel_ray.data.prompts import PromptStream
from mel_ray.records.ledger import DraftFate, TrajectoryFate
from mel_ray.records.row import RowKind, attempts, count_fates, drafts
from mel_ray.records.trajectory import derive_seed
from tests.driver.simulations import WORKLOAD, Run, leaf, rates, run, small
from tests.unit.builders import prompt

TRAINED = (TrajectoryFate.TRAINED, TrajectoryFate.TRAINED_STALE, DraftFate.TRAINED, DraftFate.TRAINED_STALE)
PARTIAL = ("rollout.partial=true", "driver.publish=in_flight")


@st.composite
def cases(draw):
    """A configuration, and how fast everything is."""
    flags = st.sampled_from(["true", "false"])
    is_partial = draw(st.booleans())
    overrides = [
        f"run.seed={draw(st.integers(0, 1000))}",
        f"driver.capacity={draw(st.integers(0, 4))}",
        f"driver.max_staleness={draw(st.integers(0, 4))}",
        f"driver.stale={draw(st.sampled_from(['drop', 'train']))}",
        f"driver.publish={'in_flight' if is_partial else draw(st.sampled_from(['drain', 'in_flight']))}",
        f"driver.keep_kv={draw(flags)}",
        f"rollout.partial={is_partial}".lower(),
        f"rollout.oversample={draw(st.sampled_from([0.3, 1.0]))}",
        f"rollout.prompts_per_step={draw(st.integers(1, 3))}",
        f"rollout.group_size={draw(st.integers(2, 3))}",
        f"algorithm.dynamic_sampling.enabled={draw(flags)}",
        f"mel.enabled={draw(flags)}",
        f"mel.pairs_per_group={draw(st.integers(1, 2))}",
        f"cluster.rollout.engines={draw(st.integers(1, 3))}",
        f"cluster.rollout.max_sequences={draw(st.sampled_from([1, 4]))}",
    ]
    speeds = {name: draw(st.sampled_from([0.001, 0.1, 1.0])) for name in ("decode", "judge", "train", "publish")}
    return overrides, rates(**speeds, slots=draw(st.sampled_from([1, 4])))


@settings(max_examples=150)
@given(case=cases())
def test_every_sample_ends_in_one_fate_of_one_step_and_nothing_is_trained_that_must_not_be(case):
    overrides, speeds = case
    config = small(*overrides)
    seen = run(config, speeds)
    assert seen.error is None
    assert seen.tasks_left == 0
    check_fates(seen)
    check_questions(seen)
    check_staleness(seen)
    check_distance(seen)
    if config.driver.publish == "drain":
        assert all(one.versions[0] == one.versions[1] for row in seen.rows for one in (row, *row.replays))


def check_fates(seen: Run):
    assert sorted(seen.archive.steps) == list(range(1, seen.simulation.config.run.steps + 1))
    for step, rows in seen.archive.steps.items():
        assert all(row.fate is not None for row in rows)
        assert count_fates(rows) == seen.watch.reports[step - 1].ledger
    found = Counter(row.sample for row in seen.rows)
    assert set(found.values()) <= {1}
    replayed = {replay.sample for row in seen.rows for replay in row.replays}
    waiting = {one.prompt.question_id for one in seen.left}
    for ref in seen.simulation.world.sampled:
        if ref.question_id in waiting:
            continue  # still under way at the end
        home = replayed if ref.kind is RowKind.REPLAY else found
        assert all((ref, index) in home for index in range(len(ref.seeds)))

    trained = Counter(row.sample for row in seen.trained)
    assert set(trained.values()) <= {1}
    assert trained.keys() == {row.sample for row in seen.rows if row.fate in TRAINED}


def check_questions(seen: Run):
    """The data's very questions, none twice and none left out."""
    learned = [name for step in seen.archive.steps for name in seen.questions(step)]
    waiting = [one.prompt.question_id for one in seen.left]
    data = seen.simulation.data
    prompts = [prompt(question_id=f"q{n}") for n in range(200)]
    asked = PromptStream(prompts, seen.simulation.config.run.seed).take(data.position)
    assert Counter(learned + waiting) == Counter(one.question_id for one in asked)
    if not seen.simulation.config.rollout.partial:
        assert waiting == []


def check_staleness(seen: Run):
    driver = seen.simulation.config.driver
    for step, rows in seen.archive.steps.items():
        oldest = seen.versions[step] - driver.max_staleness
        for row in rows:
            is_trained, is_old = row.fate in TRAINED, row.is_older_than(oldest)
            assert row.versions[1] <= seen.versions[step]
            if driver.stale == "drop":
                assert not (is_trained and is_old)
                assert row.fate not in (TrajectoryFate.TRAINED_STALE, DraftFate.TRAINED_STALE)
            else:
                assert row.fate not in (TrajectoryFate.STALE, DraftFate.STALE)
                is_counted = row.fate in (TrajectoryFate.TRAINED_STALE, DraftFate.TRAINED_STALE)
                assert is_counted == (is_trained and is_old)


def check_distance(seen: Run):
    """Nothing is begun further ahead than allowed; on policy nothing is sampled while the policy trains."""
    config, begun, learned = seen.simulation.config, set(), 0
    for what, step in seen.events:
        if what == "learned":
            learned = step
        begun.add(step)
        assert max(begun) <= min(learned + 1 + config.driver.capacity, config.run.steps)
        if what == "learned":
            assert max(begun) <= min(learned + config.driver.capacity, config.run.steps)
    if not config.driver.capacity:
        assert not any(seen.decoded_at_train)
        if not config.rollout.partial:
            assert not any(seen.under_way_at_train)


@pytest.mark.parametrize("mel", ["true", "false"])
@pytest.mark.parametrize("publish", ["drain", "in_flight"])
def test_capacity_0_is_the_strict_alternation_of_exploring_and_learning(mel, publish):
    config = small(f"mel.enabled={mel}", f"driver.publish={publish}")
    seen = run(config, rates())
    stream = PromptStream([prompt(question_id=f"q{n}") for n in range(200)], 0)
    version = 0
    for step in range(1, config.run.steps + 1):
        names = [one.question_id for one in stream.take(config.rollout.prompts_per_step)]
        rows = seen.archive.steps[step]
        assert seen.questions(step) == names
        tried = attempts(rows)
        assert [row.digest for row in tried] == [
            str(derive_seed(0, step, name, "rollout", index)) for name in names for index in range(2)
        ]
        assert {row.versions for row in rows} == {(version, version)}
        assert seen.versions[step] == version
        version += any(row.fate in TRAINED for row in rows)
    assert [what for what, _ in seen.events] == ["begun", "learned"] * config.run.steps


def test_the_number_of_batches_ahead_is_used():
    config = small("driver.capacity=2", "run.steps=6", "mel.enabled=false")
    seen = run(config, rates(train=5.0))
    assert seen.events[:4] == [("begun", 1), ("begun", 2), ("begun", 3), ("learned", 1)]
    moved = [seen.versions[step] for step in range(1, 7)]
    ages = {seen.versions[step] - row.versions[0] for step in range(3, 7) for row in attempts(seen.archive.steps[step])}
    assert moved[-1] > 2
    assert max(ages) == 2


def test_what_is_too_old_is_counted_either_way():
    options = ("driver.capacity=3", "driver.max_staleness=1", "run.steps=8", "mel.enabled=true")
    dropped = run(small(*options, "driver.stale=drop"), rates(train=5.0)).watch.reports
    trained = run(small(*options, "driver.stale=train"), rates(train=5.0)).watch.reports
    assert sum(report.ledger.trajectories.get(TrajectoryFate.STALE, 0) for report in dropped) > 0
    assert sum(report.ledger.trajectories.get(TrajectoryFate.TRAINED_STALE, 0) for report in trained) > 0


def test_in_flight_a_sequence_names_every_version_that_sampled_it():
    # decoding is slow and training quick, so updates meet running sequences
    config = small("driver.capacity=1", "driver.publish=in_flight", "run.steps=8", "rollout.prompts_per_step=4")
    seen = run(config, rates(decode=1.0, train=0.001, publish=0.01))
    spans = [own for ref in seen.simulation.world.sampled for own in ref.spans]
    assert any(len(own) > 1 for own in spans)
    for own in spans:
        versions = [version for _, version in own]
        assert versions == sorted(set(versions))
        assert all(count > 0 for count, _ in own)


@pytest.mark.parametrize("capacity", [0, 1])
def test_a_parked_sequence_comes_out_in_a_later_batch_with_all_its_tokens(capacity):
    # a heavy tail: the long ones are parked over several updates
    workload = Workload(Lengths(10, 500, spread=2.0), Lengths(6, 40), prompt_tokens=5)
    config = small(*PARTIAL, f"driver.capacity={capacity}", "run.steps=12", "mel.enabled=false", "driver.stale=train",
                   "cluster.rollout.max_sequences=16", "rollout.prompts_per_step=4")  # fmt: skip
    seen = run(config, rates(slots=16), workload=workload)
    assert seen.error is None
    parked = [row for row in attempts(seen.rows) if row.versions[0] < row.versions[1]]
    assert parked
    for row in parked:
        assert row.tokens == workload.answers.draw(row.ref.seeds[row.index])
    longest = max(len(own) for row in attempts(seen.rows) for own in row.ref.spans)
    assert longest >= 3  # more than one update went by
    assert len(seen.left) <= 6  # a batch and the half that is under way beyond it


def test_a_partial_batch_does_not_wait_for_its_longest_sequence():
    workload = Workload(Lengths(10, 500, spread=2.0), Lengths(6, 40), prompt_tokens=5)
    options = ("run.steps=10", "mel.enabled=false", "cluster.rollout.max_sequences=16", "rollout.prompts_per_step=4")
    seconds = {}
    for name, mode in {"whole": (), "partial": PARTIAL}.items():
        seen = run(small(*options, *mode), rates(slots=16), workload=workload)
        seconds[name] = sum(report.metrics["time/step"] for report in seen.watch.reports)
    assert seconds["partial"] < 0.7 * seconds["whole"]


@pytest.mark.parametrize("keep_kv", ["true", "false"])
def test_clearing_the_cache_in_flight_costs_the_prefill_of_all_that_runs(keep_kv):
    config = small("driver.capacity=1", "driver.publish=in_flight", f"driver.keep_kv={keep_kv}", "run.steps=6")
    recomputed = []

    def watched(simulation):
        for engine in simulation.pool.engines:
            load = engine.load

            def loaded(version, keep, engine=engine, load=load):
                before = engine._debt
                load(version, keep)
                recomputed.append(engine._debt - before)

            engine.load = loaded

    seen = run(config, rates(decode=1.0, train=0.001, publish=0.01), change=watched)
    assert seen.error is None
    assert any(recomputed) == (keep_kv == "false")


FAILING = ("generate", "judge", "abstract", "replay", "train", "publish")


@settings(max_examples=120)
@given(case=cases(), what=st.sampled_from(FAILING), after=st.integers(0, 12))
def test_a_failure_ends_the_run_with_its_first_cause_and_cancels_the_rest(case, what, after):
    overrides, speeds = case

    class Broken(RuntimeError):
        pass

    def breaks(simulation):
        part = {
            "generate": simulation.rollout, "judge": simulation.rewards, "abstract": simulation.experience,
            "replay": simulation.experience, "train": simulation.policy, "publish": simulation.loop.publisher,
        }[what]  # fmt: skip
        works, left = getattr(part, what), [after]

        async def broken(*arguments):
            left[0] -= 1
            if left[0] < 0:
                raise Broken(what)
            return await works(*arguments)

        setattr(part, what, broken)

    seen = run(small(*overrides), speeds, change=breaks)
    assert seen.tasks_left == 0
    if seen.error is None:
        check_fates(seen)  # it was never called so often, or by questions that no batch waited for
        return
    assert isinstance(leaf(seen.error), Broken)
    assert not any(engine.running for engine in seen.simulation.pool.engines)
    assert all(row.fate is not None for row in seen.rows) or what == "train"
    assert set(Counter(row.sample for row in seen.rows).values()) <= {1}


def test_a_failure_of_what_is_explored_ahead_does_not_wait_for_the_policy():
    ended = []

    def breaks(simulation):
        judge = simulation.rewards.judge

        async def broken(group):
            if simulation.policy.busy:  # it has begun to train
                ended.append(asyncio.get_running_loop().time())
                raise RuntimeError("the verifier is gone")
            return await judge(group)

        simulation.rewards.judge = broken

    config = small("driver.capacity=1", "cluster.rollout.max_sequences=1")  # the second batch comes after the first
    seen = run(config, rates(decode=1.0, train=1000.0), change=breaks)
    assert "the verifier is gone" in str(leaf(seen.error))
    assert seen.ended == ended[0]
    assert seen.under_way_at_train  # the policy was training
    assert all(row.fate is not None for row in seen.archive.steps[1])


def test_the_workload_of_these_tests_holds_every_kind():
    seen = run(small("run.steps=12", "mel.pairs_per_group=2"), rates(), workload=WORKLOAD)
    assert {type(row.fate) for row in seen.rows} == {TrajectoryFate, DraftFate}
    assert {DraftFate.TRAINED, DraftFate.PARSE_FAILURE, DraftFate.REPLAY_FAILED} <= {
        row.fate for row in drafts(seen.rows)
    }
