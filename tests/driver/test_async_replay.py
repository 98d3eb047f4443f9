"""The order of arrival repeated, and a run that goes on with what was explored ahead: in virtual time."""

from dataclasses import replace

import pytest

from mel_ray.cli.train import read_waiting
from mel_ray.config.load import to_yaml
from mel_ray.driver.batches import Waiting, WaitingBatches
from mel_ray.driver.order import DifferentRun
from mel_ray.driver.state import RunState
from mel_ray.driver.wiring import order_of
from mel_ray.records.problem import ConfigError
from mel_ray.records.row import RowKind, attempts
from mel_ray.records.verdict import Outcome, Verdict
from mel_ray.run.folder import RunFolder, find_run_problems
from mel_ray.run.order_file import order_line, read_order, versions_of
from tests.driver.simulations import leaf, rates, run, small

QUICK = rates(decode=0.02, train=0.5, publish=0.1)
SLOW = rates(decode=1.0, judge=3.0, train=0.001, publish=20.0, slots=1)
AHEAD = ("driver.capacity=2", "run.steps=6", "rollout.prompts_per_step=3", "checkpoint.every=2",
         "cluster.rollout.max_sequences=1")  # fmt: skip


class Shelf:
    """Keeps what references lead to in this process; a checkpoint holds their numbers."""

    kept: list = []  # noqa: RUF012  one for all

    async def get(self, refs):
        self.kept += refs
        return list(range(len(self.kept) - len(refs), len(self.kept)))

    def put(self, number):
        return self.kept[number]


def write_order(seen, folder):
    folder.mkdir(parents=True, exist_ok=True)
    config = seen.simulation.config
    is_repeatable = config.driver.publish == "drain" and not config.rollout.partial
    lines = [
        order_line(step, rows, seen.versions[step], is_repeatable) + "\n" for step, rows in seen.archive.steps.items()
    ]
    RunFolder(folder).order.write_text("".join(lines))


def replaying(tmp_path, *overrides):
    return small(f"run.dir={tmp_path}", "run.replay_order=first", *overrides)


def what_was_learned(seen):
    """Of every row of every step: which sample, by which weights, and what became of it."""
    return {
        step: [(row.question_id, row.kind, row.index, row.digest, row.versions, row.fate) for row in rows]
        for step, rows in seen.archive.steps.items()
    }


@pytest.mark.parametrize("options", [(), ("mel.enabled=false",), ("algorithm.dynamic_sampling.enabled=true",),
                                     ("mel.pairs_per_group=2", "mel.replays=2"), ("driver.capacity=0",)])  # fmt: skip
def test_an_order_replayed_gives_the_same_curve_although_everything_takes_another_time(tmp_path, options):
    first = run(small(*AHEAD, *options), QUICK)
    write_order(first, tmp_path / "first")
    config = replaying(tmp_path, *AHEAD, *options)
    again = run(config, SLOW, order=order_of(config, RunState(), ()))
    assert again.error is None
    assert what_was_learned(again) == what_was_learned(first)
    other = run(small(*AHEAD, *options), SLOW)
    if "driver.capacity=0" not in options:
        assert what_was_learned(other) != what_was_learned(first)  # time does matter where nothing is repeated


@pytest.mark.parametrize("difference", ["run.seed=3", "run.steps=8"])
def test_a_replay_of_another_run_ends_with_a_sentence(tmp_path, difference):
    write_order(run(small(*AHEAD), rates(train=5.0)), tmp_path / "first")
    config = replaying(tmp_path, *AHEAD, difference)
    seen = run(config, SLOW, order=order_of(config, RunState(), ()))
    assert isinstance(leaf(seen.error), DifferentRun)
    assert "run first has no rollout of question" in str(leaf(seen.error))
    assert "differ in more than the order of arrival" in str(leaf(seen.error))
    assert seen.tasks_left == 0


@pytest.mark.parametrize(
    ("difference", "sentence"),
    [
        ("rollout.prompts_per_step=2", "rollout.prompts_per_step=2: run first cannot be repeated with it, because that"
                                       " run had 3. Give both the same value, or leave run.replay_order out."),
        ("driver.capacity=0", "driver.capacity=0: run first explored 2 batches ahead, also if it went on with fewer."
                              " Set driver.capacity=2."),
        ("mel.enabled=false", "mel.enabled=False: run first cannot be repeated with it, because that run had True."),
        ("run.seed=3", "run.seed=3: run first cannot be repeated with it, because that run had 0."),
        ("run.steps=4", "run.steps=4: run first cannot be repeated with it, because that run had 6."),
    ],
)  # fmt: skip
def test_a_run_that_would_wait_for_samples_of_another_configuration_is_not_begun(tmp_path, difference, sentence):
    folder = RunFolder(tmp_path / "first")
    write_order(run(small(*AHEAD), QUICK), folder.path)
    folder.config.write_text(to_yaml(small(*AHEAD)))
    assert find_run_problems(replaying(tmp_path, *AHEAD)) == []
    assert find_run_problems(replaying(tmp_path, *AHEAD, "cluster.rollout.engines=7")) == []
    (problem,) = find_run_problems(replaying(tmp_path, *AHEAD, difference))
    assert sentence in str(problem)


def test_an_order_that_is_missing_or_damaged_is_a_problem(tmp_path):
    (problem,) = find_run_problems(replaying(tmp_path))
    assert "run.replay_order=first: there is no order of arrival" in str(problem)
    RunFolder(tmp_path / "first").path.mkdir()
    RunFolder(tmp_path / "first").order.write_text("{\n")
    (problem,) = find_run_problems(replaying(tmp_path))
    assert "cannot be read" in str(problem)


@pytest.mark.parametrize("text", ["a: [", "- 1", "run: 3", "3", "\x00", ""])
def test_a_damaged_configuration_of_the_other_run_is_a_problem(tmp_path, text):
    write_order(run(small(*AHEAD), QUICK), tmp_path / "first")
    RunFolder(tmp_path / "first").config.write_text(text)
    problems = find_run_problems(replaying(tmp_path, *AHEAD))
    assert problems and ("cannot be read" in str(problems[0]) or "that run had None" in str(problems[0]))


@pytest.mark.parametrize("kept", [0, 4])
def test_a_run_that_is_not_finished_cannot_be_repeated(tmp_path, kept):
    folder = RunFolder(tmp_path / "first")
    write_order(run(small(*AHEAD), QUICK), folder.path)
    folder.config.write_text(to_yaml(small(*AHEAD)))
    lines = folder.order.read_text().splitlines(keepends=True)
    folder.order.write_text("".join(lines[:kept]) + lines[kept][:20])  # killed while it wrote the next
    (problem,) = find_run_problems(replaying(tmp_path, *AHEAD))
    assert f"run first is not finished: step {kept + 1} of 6 is missing" in str(problem)
    assert "finish that run" in problem.remedy


def test_a_run_cannot_repeat_itself(tmp_path):
    folder = RunFolder(tmp_path / "first")
    write_order(run(small(*AHEAD), QUICK), folder.path)
    folder.config.write_text(to_yaml(small(*AHEAD)))
    (problem,) = find_run_problems(replaying(tmp_path, *AHEAD, "run.name=first", "run.resume=auto"))
    assert "a run cannot repeat itself" in str(problem)


@pytest.mark.parametrize("capacity", [0, 1, 2])
def test_fewer_steps_of_another_run_do_not_wait_for_those_that_never_come(tmp_path, capacity):
    first = run(small(*AHEAD, f"driver.capacity={capacity}"), QUICK)
    write_order(first, tmp_path / "first")
    config = replaying(tmp_path, *AHEAD, f"driver.capacity={capacity}", "run.steps=3")
    again = run(config, SLOW, order=order_of(config, RunState(), ()))
    assert again.error is None
    assert what_was_learned(again) == {step: what_was_learned(first)[step] for step in (1, 2, 3)}


@pytest.mark.parametrize("questions", [7, 10, 30])
@pytest.mark.parametrize("capacity", [0, 2])
def test_with_dynamic_sampling_no_question_is_twice_in_a_step_and_its_order_can_be_repeated(
    tmp_path, questions, capacity
):
    options = (*AHEAD, f"driver.capacity={capacity}", "algorithm.dynamic_sampling.enabled=true", "run.steps=12")
    first = run(small(*options), QUICK, questions=questions)
    assert first.error is None
    for rows in first.archive.steps.values():
        samples = [(row.question_id, row.index) for row in attempts(rows)]
        assert len(samples) == len(set(samples))
    write_order(first, tmp_path / "first")
    config = replaying(tmp_path, *options)
    again = run(config, SLOW, order=order_of(config, RunState(), ()), questions=questions)
    assert again.error is None
    assert what_was_learned(again) == what_was_learned(first)


def test_meta_experience_that_the_other_run_did_not_write_is_a_difference(tmp_path):
    write_order(run(small(*AHEAD, "mel.enabled=false"), QUICK), tmp_path / "first")
    config = replaying(tmp_path, *AHEAD)
    seen = run(config, QUICK, order=order_of(config, RunState(), ()))
    assert isinstance(leaf(seen.error), DifferentRun)
    assert "has no drafts of question" in str(leaf(seen.error))


def test_a_failure_while_an_order_is_replayed_does_not_wait_for_samples_that_never_come(tmp_path):
    write_order(run(small(*AHEAD), rates(train=5.0)), tmp_path / "first")
    config = replaying(tmp_path, *AHEAD)

    def breaks(simulation):
        judge, left = simulation.rewards.judge, [8]

        async def broken(group):
            left[0] -= 1
            if left[0] < 0:
                raise RuntimeError("the verifier is gone")
            return await judge(group)

        simulation.rewards.judge = broken

    seen = run(config, SLOW, order=order_of(config, RunState(), ()), change=breaks)
    assert "the verifier is gone" in str(leaf(seen.error))
    assert seen.tasks_left == 0


@pytest.mark.parametrize("outcome", ["timeout", "correct"])
def test_a_verdict_that_differs_ends_a_replay_that_would_wait_for_what_never_comes(tmp_path, outcome):
    first = run(small(*AHEAD), QUICK)
    write_order(first, tmp_path / "first")
    drafted = [row.question_id for row in first.archive.steps[2] if row.kind is RowKind.DRAFT]
    config = replaying(tmp_path, *AHEAD)

    def changes(simulation):
        judge = simulation.rewards.judge

        async def otherwise(group):
            rows = await judge(group)
            verdict = Verdict(Outcome.TIMEOUT) if outcome == "timeout" else Verdict(Outcome.CORRECT)
            is_meant = rows[0].question_id == drafted[0] and rows[0].kind is RowKind.ATTEMPT
            return tuple(replace(row, verdict=verdict) for row in rows) if is_meant else rows

        simulation.rewards.judge = otherwise

    seen = run(config, SLOW, order=order_of(config, RunState(), ()), change=changes)
    assert isinstance(leaf(seen.error), DifferentRun)
    assert f"run first has drafts of question {drafted[0]} and this one has not" in str(leaf(seen.error))


def test_a_question_that_only_the_other_run_asked_ends_a_replay(tmp_path):
    write_order(run(small(*AHEAD), QUICK), tmp_path / "first")
    file = RunFolder(tmp_path / "first").order
    file.write_text(file.read_text().replace('"sampled": [', '"sampled": [["another", "rollout", 0], ', 3))
    config = replaying(tmp_path, *AHEAD)
    seen = run(config, SLOW, order=order_of(config, RunState(), ()))
    assert isinstance(leaf(seen.error), DifferentRun)
    assert "run first has rollout of question another and this one has not" in str(leaf(seen.error))


# -- the file


def test_an_order_that_is_written_is_read_again(tmp_path):
    seen = run(small(*AHEAD), QUICK)
    write_order(seen, tmp_path)
    file = RunFolder(tmp_path).order
    assert {step: one.sampled for step, one in read_order(file).items()} == {
        step: versions_of(rows) for step, rows in seen.archive.steps.items()
    }
    assert {step: one.version for step, one in read_order(file).items()} == seen.versions
    assert all(one.is_repeatable for one in read_order(file).values())
    file.write_text(file.read_text() + '{"step": 7, "sam')
    assert sorted(read_order(file)) == [1, 2, 3, 4, 5, 6]  # the half-written line is none


def test_an_order_holds_everything_that_was_sampled():
    seen = run(small(*AHEAD, "mel.pairs_per_group=2"), QUICK)
    for rows in seen.archive.steps.values():
        found = versions_of(rows)
        for row in rows:
            what = "rollout" if row in attempts(rows) else "drafts"
            assert found[row.question_id, what] == row.versions[0]
            for replay in row.replays:
                assert found[row.question_id, f"replay-{row.index}"] == replay.versions[0]
        replays = sum(bool(row.replays) for row in rows)
        drafted = {row.question_id for row in rows} & {row.question_id for row in rows if row.replays}
        assert len(found) >= len({row.question_id for row in attempts(rows)}) + replays + len(drafted)


@pytest.mark.parametrize("line", ["{", '{"sampled": []}', '{"step": 1, "sampled": [["q", 0]]}', "[]"])
def test_a_damaged_order_is_an_error(tmp_path, line):
    file = tmp_path / "order.jsonl"
    file.write_text(line + "\n")
    with pytest.raises((ValueError, KeyError, TypeError)):
        read_order(file)


# -- resuming


def interrupted(config, tmp_path, at=2, speeds=QUICK):
    """A whole run that leaves a checkpoint after a step."""

    async def saving(simulation):
        state = simulation.loop.state
        if state.step == at:
            await WaitingBatches(simulation.loop.buffer.batches, simulation.data, state, Shelf()).save(tmp_path)
            state.write(tmp_path)

    return run(config, speeds, saving=saving)


def resumed(config, tmp_path, speeds=QUICK, order_for=None):
    state = RunState.read(tmp_path)
    waiting = Waiting.read(tmp_path, state.waiting).put_into(Shelf())
    order = order_of(order_for, state, waiting) if order_for else None
    before = [replace(one) for one in waiting]
    return run(config, speeds, state=state, waiting=waiting, order=order), before


MODES = {
    "drain": (),
    "in flight": ("driver.publish=in_flight",),
    "dynamic": ("algorithm.dynamic_sampling.enabled=true",),
    "partial": ("rollout.partial=true", "driver.publish=in_flight"),
    "partial, dynamic": (
        "rollout.partial=true", "driver.publish=in_flight", "algorithm.dynamic_sampling.enabled=true",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("capacity", [0, 1, 3])
def test_what_was_explored_before_an_interruption_is_trained_and_not_sampled_again(tmp_path, mode, capacity):
    config = small(*AHEAD, *MODES[mode], f"driver.capacity={capacity}", "driver.stale=train")
    whole = interrupted(config, tmp_path)
    rest, waiting = resumed(config, tmp_path)
    assert rest.error is None
    done = {one.prompt.question_id: one.explored for one in waiting if one.explored is not None}
    if capacity:
        assert done  # training is slow, so something was explored ahead
    learned = [name for step in rest.archive.steps for name in rest.questions(step)]
    left = {one.prompt.question_id for one in rest.left}
    assert set(done) <= {*learned, *left}
    again = {ref.question_id for ref in rest.simulation.world.sampled}
    assert again.isdisjoint(done)
    for step, rows in rest.archive.steps.items():
        for row in rows:
            if row.question_id in done:
                (before,) = [one for one in done[row.question_id] if one.sample == row.sample]
                assert (row.versions, row.verdict) == (before.versions, before.verdict), step
    # both halves together ask the data's questions once each
    first = [name for step in (1, 2) for name in whole.questions(step)]
    assert len({*first, *learned}) == len(first) + len(learned)
    if "partial" not in mode:
        assert [*first, *learned] == [name for step in whole.archive.steps for name in whole.questions(step)]


@pytest.mark.parametrize("dynamic", ["false", "true"])
@pytest.mark.parametrize(("before", "after"), [("drain", "partial"), ("partial", "drain")])
def test_a_run_may_become_partial_or_whole_again_and_nothing_explored_is_lost(tmp_path, before, after, dynamic):
    options = (*AHEAD, "driver.stale=train", f"algorithm.dynamic_sampling.enabled={dynamic}")
    whole = interrupted(small(*options, *MODES[before]), tmp_path)
    rest, waiting = resumed(small(*options, *MODES[after]), tmp_path)
    assert rest.error is None
    assert any(one.explored is not None for one in waiting)
    names = [name for step in rest.archive.steps for name in rest.questions(step)]
    assert {one.prompt.question_id for one in waiting} <= set(names)
    assert rest.left == []
    if dynamic == "false":
        assert [len(rest.questions(step)) for step in rest.archive.steps] == [3] * 4
    done = {one.prompt.question_id for one in waiting if one.explored is not None}
    assert done.isdisjoint(ref.question_id for ref in rest.simulation.world.sampled)
    first = [name for step in (1, 2) for name in whole.questions(step)]
    assert len({*first, *names}) == len(first) + len(names)


@pytest.mark.parametrize("damage", ["cut", "missing", "other"])
def test_what_was_explored_ahead_is_missed_where_it_is_damaged(tmp_path, damage):
    interrupted(small(*AHEAD), tmp_path)
    state, file = RunState.read(tmp_path), tmp_path / "explored.npz"
    assert state.waiting
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:300])
    elif damage == "missing":
        file.unlink()
    with pytest.raises(ValueError, match=r"explored\.npz"):
        Waiting.read(tmp_path, state.waiting + (damage == "other"))


def test_what_was_explored_ahead_is_not_trained_on_where_nothing_would_correct_for_its_age(tmp_path):
    interrupted(small(*AHEAD), tmp_path)
    state = RunState.read(tmp_path)
    uncorrected = small("driver.capacity=0", "algorithm.epochs=2")
    with pytest.raises(ConfigError, match="nothing would correct for their age"):
        read_waiting(tmp_path, uncorrected, state)
    for config in (
        small(*AHEAD),
        small("driver.capacity=0"),
        small("algorithm.epochs=2", "algorithm.importance_cap=2"),
    ):
        assert len(read_waiting(tmp_path, config, state).asked) == state.waiting
    assert read_waiting(None, uncorrected, RunState()) == Waiting()


def test_on_policy_nothing_waits_and_nothing_is_written(tmp_path):
    interrupted(small(*AHEAD, "driver.capacity=0"), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["driver.json"]


@pytest.mark.parametrize("at", [2, 4])
def test_a_resumed_run_with_the_same_order_of_arrival_has_the_curve_of_an_uninterrupted_one(tmp_path, at):
    config, checkpoint = small(*AHEAD), tmp_path / "checkpoint"
    checkpoint.mkdir()
    whole = interrupted(config, checkpoint, at)
    write_order(whole, tmp_path / "first")
    rest, _ = resumed(config, checkpoint, SLOW, order_for=replaying(tmp_path, *AHEAD))
    assert rest.error is None
    expected = {step: rows for step, rows in what_was_learned(whole).items() if step > at}
    assert what_was_learned(rest) == expected
    assert rest.simulation.loop.state.ledger == whole.simulation.loop.state.ledger


# -- runs that went on in another way


def gone_on(tmp_path, before, after, at=2):
    """The folder of a run that was interrupted after a step and went on with other options, and what it learned."""
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    first = interrupted(small(*AHEAD, *before), checkpoint, at)
    rest, _ = resumed(small(*AHEAD, *after), checkpoint)
    assert rest.error is None
    write_order(first, tmp_path / "begun")
    write_order(rest, tmp_path / "first")
    order = RunFolder(tmp_path / "first").order
    begun = RunFolder(tmp_path / "begun").order.read_text().splitlines(keepends=True)[:at]
    order.write_text("".join(begun) + order.read_text())
    RunFolder(tmp_path / "first").config.write_text(to_yaml(small(*AHEAD, *after)))
    learned = what_was_learned(first)
    return {step: learned[step] for step in range(1, at + 1)} | what_was_learned(rest)


@pytest.mark.parametrize(("before", "after", "needed"), [(2, 0, 2), (2, 1, 2), (1, 2, 2), (0, 1, 1), (1, 0, 1)])
def test_a_run_that_went_on_with_another_capacity_is_repeated_with_the_largest(tmp_path, before, after, needed):
    learned = gone_on(tmp_path, [f"driver.capacity={before}"], [f"driver.capacity={after}"])
    for capacity in range(needed):
        (problem,) = find_run_problems(replaying(tmp_path, *AHEAD, f"driver.capacity={capacity}"))
        assert problem.remedy == f"set driver.capacity={needed}"
    for capacity in (needed, needed + 1):
        config = replaying(tmp_path, *AHEAD, f"driver.capacity={capacity}")
        assert find_run_problems(config) == []
        again = run(config, SLOW, order=order_of(config, RunState(), ()))
        assert again.error is None
        assert what_was_learned(again) == learned


@pytest.mark.parametrize("before", ["in flight", "partial"])
def test_a_run_that_began_in_flight_cannot_be_repeated_although_it_went_on_otherwise(tmp_path, before):
    gone_on(tmp_path, (*MODES[before], "driver.stale=train"), ("driver.stale=train",))
    (problem,) = find_run_problems(replaying(tmp_path, *AHEAD, "driver.stale=train"))
    assert "of run first was sampled in flight or in parts" in str(problem)


@pytest.mark.parametrize("at", [2, 4])
@pytest.mark.parametrize("speeds", [QUICK, rates(decode=0.3), rates(decode=0.05, judge=3.0, train=0.2)])
def test_a_replay_that_was_interrupted_goes_on_with_the_same_curve_or_says_that_it_cannot(tmp_path, speeds, at):
    first = run(small(*AHEAD), rates(decode=0.05, judge=1.0, train=0.3))
    write_order(first, tmp_path / "first")
    config, checkpoint = replaying(tmp_path, *AHEAD), tmp_path / "checkpoint"
    checkpoint.mkdir()

    async def saving(simulation):
        if simulation.loop.state.step == at:
            batches, state = simulation.loop.buffer.batches, simulation.loop.state
            await WaitingBatches(batches, simulation.data, state, Shelf()).save(checkpoint)
            state.write(checkpoint)

    assert run(config, speeds, order=order_of(config, RunState(), ()), saving=saving).error is None
    rest, _ = resumed(config, checkpoint, SLOW, order_for=config)
    if rest.error is None:
        learned = what_was_learned(first)
        assert what_was_learned(rest) == {step: learned[step] for step in learned if step > at}
    else:
        assert "was under way when this replay was interrupted" in str(leaf(rest.error))


def test_a_run_that_goes_on_on_policy_knows_how_old_its_first_batches_are(tmp_path):
    interrupted(small(*AHEAD), tmp_path)
    rest, waiting = resumed(small(*AHEAD, "driver.capacity=0"), tmp_path)
    assert any(one.explored is not None for one in waiting)
    versions = [settings.version for settings in rest.simulation.policy.settings]
    older = [any(row.is_older_than(rest.versions[step]) for row in rows) for step, rows in rest.archive.steps.items()]
    assert any(older) and not all(older)
    assert [version is not None for version in versions] == older
