"""The guard in driver/guards.py against updates that are skipped again and again."""

import pytest

from mel_ray.actors.incidents import Incidents
from mel_ray.driver.guards import Diverged, SkipGuard
from mel_ray.records.reports import UpdateReport
from tests.driver.fakes import World, make

APPLIED = UpdateReport({}, optimizer_steps=2, moved=True)
ONE_SKIPPED = UpdateReport({}, optimizer_steps=2, moved=True, skipped=1)
NOTHING = UpdateReport({}, optimizer_steps=0)


def test_so_many_steps_in_a_row_end_the_run():
    guard = SkipGuard(3)
    for step, update in enumerate([ONE_SKIPPED, ONE_SKIPPED, APPLIED, ONE_SKIPPED, NOTHING, ONE_SKIPPED], start=1):
        guard.watch(step, update)
    with pytest.raises(Diverged, match=r"step 7: 1 of 2 updates skipped.*since 3 steps"):
        guard.watch(7, ONE_SKIPPED)


def test_whoever_listens_is_told_of_each():
    heard, incidents = [], Incidents()
    incidents.listen(heard.append)
    guard = SkipGuard(3, incidents)
    guard.watch(1, APPLIED)
    guard.watch(2, ONE_SKIPPED)
    assert [(one.kind, one.who) for one in heard] == [("skipped", "policy")]


async def test_a_step_whose_only_update_was_skipped_publishes_nothing():
    world = World({"a": "cw"})
    system = make(world, "algorithm.max_skipped=2")

    async def skipped(steps, settings):
        return UpdateReport({}, len(steps), moved=False, skipped=len(steps))

    system.policy.train = skipped
    report = await system.step(1)
    assert (report.metrics["policy/version"], world.who("published"), world.who("recorded")) == (0, [], ["1"])
    with pytest.raises(Diverged):
        await system.step(2)
    assert world.who("recorded") == ["1", "2"]  # nothing explored is lost
    assert system.loop.state.step == 1
