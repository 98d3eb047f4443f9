"""run/checkpoints.py: written while training goes on, complete or not there, the last and the best kept."""

import asyncio
import errno
import json

import pytest

from mel_ray.config.schema import CheckpointConfig
from mel_ray.driver.batches import WaitingBatches
from mel_ray.driver.loop import Watch
from mel_ray.driver.state import RunState
from mel_ray.records.incident import LostActor, PoolError
from mel_ray.records.reports import EvalReport
from mel_ray.run.checkpoints import Checkpoints, NotSaved, best_checkpoint, latest_checkpoint
from tests.driver.fakes import FakeJournals, FakePolicy, FakeSink, World, make


class Ranks(FakePolicy):
    """`failure` is raised by the next write; `may_write` must be set for it to go on."""

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__(World({}))
        self.failure, self.may_write = failure, asyncio.Event()
        self.may_write.set()

    async def write(self) -> None:
        await self.may_write.wait()
        await super().write()
        if self.failure:
            failure, self.failure = self.failure, None
            raise failure


def checkpoints_of(folder, ranks=None, savers=(), **options):
    heard = []
    made = Checkpoints(folder, CheckpointConfig(**options), savers, ranks or Ranks(), heard.append, heard.append)
    return made, heard


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.glob("*step-*"))


async def test_an_incomplete_checkpoint_is_never_the_latest(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    (tmp_path / "step-000009").mkdir()
    (tmp_path / ".step-000008.partial").mkdir()
    (tmp_path / "latest").write_text("step-000009")
    assert latest_checkpoint(tmp_path) is None
    checkpoints, heard = checkpoints_of(tmp_path)
    await checkpoints.save(RunState(step=9))
    await checkpoints.finish()
    assert latest_checkpoint(tmp_path).name == "step-000009"
    assert heard == [9]


async def test_a_save_that_was_cut_before_the_pointer_moved_is_finished_by_the_next(tmp_path):
    checkpoints, _ = checkpoints_of(tmp_path)
    for step in (8, 9):
        await checkpoints.save(RunState(step=step))
        await checkpoints.finish()
    (tmp_path / "latest").write_text("step-000008")
    assert latest_checkpoint(tmp_path).name == "step-000009"
    await checkpoints.save(RunState(step=9))
    assert (tmp_path / "latest").read_text() == "step-000009"


async def test_training_goes_on_while_a_checkpoint_is_written_and_it_holds_the_state_of_its_step(tmp_path):
    ranks = Ranks()
    checkpoints, heard = checkpoints_of(tmp_path, ranks)
    ranks.may_write.clear()
    state = RunState(step=4, position=40)
    await checkpoints.save(state)
    state.step, state.position = 5, 50
    await asyncio.sleep(0)
    assert names(tmp_path) == [".step-000004.partial"]
    second = asyncio.create_task(checkpoints.save(state))
    await asyncio.sleep(0)
    assert not second.done()  # one at a time
    ranks.may_write.set()
    await second
    await checkpoints.finish()
    assert names(tmp_path) == ["step-000004", "step-000005"]
    assert [RunState.read(tmp_path / name).position for name in names(tmp_path)] == [40, 50]
    assert heard == [4, 5]


FULL = [OSError(errno.ENOSPC, "No space left on device"), PoolError("policy rank 1, write: No space left on device")]


@pytest.mark.parametrize("failure", FULL)
async def test_a_full_disk_is_told_and_leaves_the_last_checkpoint(tmp_path, failure):
    ranks = Ranks()
    checkpoints, heard = checkpoints_of(tmp_path, ranks)
    await checkpoints.save(RunState(step=2))
    await checkpoints.finish()
    ranks.failure = failure
    await checkpoints.save(RunState(step=4))
    await checkpoints.finish()
    assert heard[0] == 2
    assert "the checkpoint of step 4 was not saved, and the last one is step-000002: " in heard[1]
    assert "No space left on device" in heard[1]
    assert names(tmp_path) == ["step-000002"]
    await checkpoints.save(RunState(step=6))
    await checkpoints.finish()
    assert names(tmp_path) == ["step-000002", "step-000006"]


async def test_a_run_may_stop_where_a_checkpoint_cannot_be_written(tmp_path):
    class Full:
        async def save(self, folder):
            raise FULL[0]

    checkpoints, _ = checkpoints_of(tmp_path, savers=[Full()], on_failure="stop")
    with pytest.raises(NotSaved, match=r"step 2 was not saved, and there is none yet: No space left on device"):
        await checkpoints.save(RunState(step=2))
    checkpoints, _ = checkpoints_of(tmp_path, Ranks(FULL[1]), on_failure="stop")
    await checkpoints.save(RunState(step=2))
    with pytest.raises(NotSaved):
        await checkpoints.finish()
    assert names(tmp_path) == []


async def test_a_lost_rank_is_no_full_disk(tmp_path):
    checkpoints, heard = checkpoints_of(tmp_path, Ranks(LostActor("policy rank 0, write: its process died")))
    await checkpoints.save(RunState(step=2))
    with pytest.raises(LostActor):
        await checkpoints.finish()
    assert heard == []
    await checkpoints.abandon()


def scored(step: int, value: float) -> EvalReport:
    return EvalReport("held", step, 10, {"pass@1": 0.5, "avg@4": value})


async def save(checkpoints, step: int) -> None:
    await checkpoints.save(RunState(step=step))
    await checkpoints.finish()


async def test_the_best_is_kept_beside_the_last(tmp_path):
    checkpoints, _ = checkpoints_of(tmp_path, keep=1, keep_best="held/avg@4")
    assert not checkpoints.evaluated(scored(0, 0.9))  # there are no weights to keep
    wanted = []
    for step, value in enumerate([0.1, 0.4, 0.2, 0.3], start=1):
        wanted.append(checkpoints.evaluated(scored(step, value)))
        await save(checkpoints, step)
    assert wanted == [True, True, False, False]
    assert names(tmp_path) == ["step-000002", "step-000004"]
    assert json.loads((tmp_path / "best.json").read_text()) == {
        "checkpoint": "step-000002", "metric": "held/avg@4", "score": 0.4,
    }  # fmt: skip
    again, _ = checkpoints_of(tmp_path, keep=1, keep_best="held/avg@4")  # a resumed run remembers it
    assert not again.evaluated(scored(5, 0.35))
    await save(again, 5)
    assert again.evaluated(scored(5, 0.5))  # after its checkpoint
    assert best_checkpoint(tmp_path).checkpoint == "step-000005"
    await save(again, 6)
    assert names(tmp_path) == ["step-000005", "step-000006"]


async def test_a_best_that_was_moved_aside_is_forgotten(tmp_path):
    checkpoints, _ = checkpoints_of(tmp_path, keep_best="held/avg@4")
    checkpoints.evaluated(scored(2, 0.4))
    await save(checkpoints, 2)
    (tmp_path / "step-000002").rename(tmp_path / "aside")
    assert best_checkpoint(tmp_path) is None
    again, _ = checkpoints_of(tmp_path, keep_best="held/avg@4")
    assert again.evaluated(scored(1, 0.1))


class Noted:
    """Which steps were saved; the evaluations after `best` are wanted."""

    def __init__(self, best=()) -> None:
        self.saved, self.finished, self.best = [], 0, best

    async def save(self, state, again=False) -> None:
        self.saved.append(state.step)

    async def finish(self) -> None:
        self.finished += 1

    def evaluated(self, report) -> bool:
        return report.step in self.best


class Nothing:
    async def evaluate(self, benchmark, step, journal):
        return EvalReport(benchmark.name, step, 1, {})


async def saved_steps(*overrides, best=()) -> list[int]:
    from mel_ray.records.evaluation import Benchmark

    system, noted = make(World({"a": "cw"}), "run.steps=6", *overrides), Noted(best)
    benchmarks = [Benchmark("held", ())]
    await system.loop.run(Watch(system.loop.state, Nothing(), benchmarks, FakeJournals(), noted, [FakeSink()]))
    assert noted.finished == 1
    return noted.saved


async def test_when_a_checkpoint_is_due():
    assert await saved_steps("checkpoint.every=0") == [6]
    assert await saved_steps("checkpoint.every=4") == [4, 6]
    assert await saved_steps("checkpoint.every=0", "checkpoint.every_minutes=1e-9") == [1, 2, 3, 4, 5, 6]
    assert await saved_steps("checkpoint.every=0", "checkpoint.every_minutes=60") == [6]
    assert await saved_steps("checkpoint.every=4", "eval.every=1", best=(3, 4, 6)) == [3, 4, 6]


async def test_a_best_that_could_not_be_saved_leaves_the_one_before(tmp_path):
    ranks = Ranks()
    checkpoints, _ = checkpoints_of(tmp_path, ranks, keep=1, keep_best="held/avg@4")
    checkpoints.evaluated(scored(2, 0.4))
    await save(checkpoints, 2)
    ranks.failure = OSError(errno.ENOSPC, "No space left on device")
    assert checkpoints.evaluated(scored(6, 0.5))
    await save(checkpoints, 6)
    await save(checkpoints, 8)
    assert best_checkpoint(tmp_path).checkpoint == "step-000002"
    assert names(tmp_path) == ["step-000002", "step-000008"]
    assert checkpoints.evaluated(scored(9, 0.45))


async def test_a_full_disk_that_takes_no_note_of_the_best_is_told(tmp_path, monkeypatch):
    checkpoints, heard = checkpoints_of(tmp_path, keep_best="held/avg@4")
    await save(checkpoints, 5)

    def full(file, value):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mel_ray.run.checkpoints.write_json", full)
    assert checkpoints.evaluated(scored(5, 0.5))
    assert heard[-1] == "the best checkpoint, of step 5, was not noted: No space left on device"


def test_what_a_killed_process_left_unfinished_is_removed(tmp_path):
    for name in (".step-000003.partial", ".step-000002.universal", "step-000002"):
        (tmp_path / name).mkdir()
    checkpoints_of(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]


async def test_a_failed_write_forgets_the_best_checkpoint_of_its_own_step_alone(tmp_path):
    ranks = Ranks()
    checkpoints, _ = checkpoints_of(tmp_path, ranks, keep_best="held/pass@1")
    ranks.failure = FULL[1]
    ranks.may_write.clear()
    await checkpoints.save(RunState(step=4))
    checkpoints.evaluated(EvalReport("held", 6, 1, {"pass@1": 0.5}))
    ranks.may_write.set()
    await save(checkpoints, 6)
    assert best_checkpoint(tmp_path).checkpoint == "step-000006"


async def test_what_was_explored_since_a_checkpoint_is_saved_when_a_run_is_stopped(tmp_path):
    system = make(World(dict.fromkeys("abcd", "cw")), "rollout.prompts_per_step=2")
    batches, state = system.loop.buffer.batches, system.loop.state
    explored = WaitingBatches(batches, system.loop.data, state, system.world.store)
    checkpoints, _ = checkpoints_of(tmp_path, savers=[explored])
    await save(checkpoints, 0)
    asked = batches._ask(1, 2, 1)
    await batches._run(asked[0])
    assert batches.has_unsaved
    await checkpoints.save(state)
    await checkpoints.finish()
    assert RunState.read(tmp_path / "step-000000").waiting == 0
    await checkpoints.save(state, again=batches.has_unsaved)
    await checkpoints.finish()
    assert RunState.read(tmp_path / "step-000000").waiting == 2
    assert not batches.has_unsaved
    assert names(tmp_path) == ["step-000000"]
