"""What a loop keeps since its last checkpoint, so that it can go on from there when the policy is lost."""

from mel_ray.driver.batches import KEPT, Batches, refs_of, without_lost
from mel_ray.driver.state import RunState
from tests.driver.fakes import World, make


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
