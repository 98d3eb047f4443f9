"""What a loop keeps since its last checkpoint, so that it can go on from there when the policy is lost."""

from mel_ray.cli.training_run import TrainingRun
from mel_ray.driver.batches import KEPT, Batches, refs_of, without_lost
from mel_ray.driver.state import RunState
from mel_ray.records.incident import LostActor, PoolError
from mel_ray.run.folder import RunFolder
from mel_ray.run.metrics_file import Lines
from tests.driver.fakes import World, make
from tests.unit.builders import config_of


async def test_what_was_trained_on_since_a_checkpoint_can_be_trained_on_again():
    world = World(dict.fromkeys("abcdef", "cw"))
    system = make(world, "rollout.prompts_per_step=2", "driver.capacity=1")
    batches, data = system.loop.buffer.batches, system.loop.data
    first = [await system.explored(1), await system.explored(2)]
    batches.forget(1)
    third = await system.explored(3)
    again = batches.since(1)
    assert [(one.step, one.batch) for one in again if one.explored is not None][:4] == [(2, 2), (2, 2), (3, 3), (3, 3)]
    await system.loop.buffer.close()
    generated = len(world.who("generated"))
    after = Batches(system.explorer.explore, data, system.cfg, again)
    for step, expected in ((2, first[1]), (3, third)):
        assert after.hand_over(await after.batch(step)) == expected
    assert len(world.who("generated")) == generated


async def test_batches_of_long_ago_are_not_kept():
    system = make(World(dict.fromkeys("ab", "cw")), "run.steps=100")
    batches = system.loop.buffer.batches
    for step in range(1, KEPT + 1):
        await system.explored(step)
    assert len(batches.since(0)) == 2 * KEPT
    await system.explored(KEPT + 1)
    assert batches.since(0) is None
    assert len(batches.since(1)) == 2 * KEPT
    batches.forget(KEPT + 1)
    assert batches.since(KEPT + 1) == []


async def test_questions_of_which_a_record_is_lost_are_asked_again():
    system = make(World(dict.fromkeys("abcd", "cw")), "rollout.prompts_per_step=4")
    await system.explored(1)
    since = system.loop.buffer.batches.since(0)
    lost = {"group-b", "drafts-d"}  # the attempts of one, the lessons of another
    assert lost <= set(refs_of(since))
    after = without_lost(since, lost)
    assert [one.prompt.question_id for one in after if one.explored is None] == ["b", "d"]
    assert [(one.step, one.batch) for one in after] == [(one.step, one.batch) for one in since]


async def test_what_came_before_a_start_from_a_later_state_is_not_known():
    """So a checkpoint of before is followed by its own questions, and not by those of later steps."""
    system = make(World(dict.fromkeys("abcd", "cw")), run_state=RunState(step=2, position=4))
    await system.explored(3)
    batches = system.loop.buffer.batches
    assert batches.since(0) is None
    assert [one.step for one in batches.since(2)] == [3] * 4


class Looped:
    """Enough of pools: ranks of which one may be found lost."""

    def __init__(self, lost: LostActor | None = None) -> None:
        self.policy, self._lost = self, lost

    async def loss_behind(self, error: PoolError) -> LostActor | None:
        return self._lost


async def test_a_process_that_dies_while_the_pools_start_is_worth_another_start_and_an_error_is_not(tmp_path):
    died = LostActor("policy rank 0, start: its process died.", None, "policy rank 0", has_died=True)
    raised = LostActor("policy rank 0, start: its process died.", None, "policy rank 0")
    for error, found, expected in (
        (died, None, died), (raised, None, None), (PoolError("connection reset"), died, died),
        (PoolError("no such model"), None, None), (RuntimeError("a bug"), died, None),
    ):  # fmt: skip
        run = TrainingRun(config_of(), None, RunFolder(tmp_path), RunState())
        assert await run._loss_behind(error, Looped(found)) is expected
    run = TrainingRun(config_of(), None, RunFolder(tmp_path), RunState())
    assert await run._loss_behind(died, Looped()) is died
    assert await run._loss_behind(died, Looped()) is None  # once


def test_lines_that_a_full_disk_refused_are_not_written_when_their_steps_are_done_again(tmp_path):
    lines = Lines(tmp_path / "missing" / "metrics.jsonl")
    for step in (1, 2, 3):
        lines.append(f'{{"step": {step}}}')
    lines.forget(1)
    (tmp_path / "missing").mkdir()
    lines.append('{"step": 2, "again": true}')
    assert (tmp_path / "missing" / "metrics.jsonl").read_text().splitlines() == [
        '{"step": 1}',
        '{"step": 2, "again": true}',
    ]
