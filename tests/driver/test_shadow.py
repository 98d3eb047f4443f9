"""The state in memory: copied after every step, kept once it is complete."""

import asyncio

import pytest

from mel_ray.driver.state import RunState
from mel_ray.records.incident import LostActor, PoolError
from mel_ray.run.shadow import Shadow


class Ranks:
    def __init__(self) -> None:
        self.copied, self.may_pack, self.error = 0, asyncio.Event(), None

    async def shadow(self) -> None:
        self.copied += 1

    async def pack(self) -> list[str]:
        await self.may_pack.wait()
        if self.error:
            raise self.error
        return [f"part {self.copied}"]


class Memory:
    def __init__(self) -> None:
        self.entries = [(1, "lesson")]


def shadow_of(ranks: Ranks, told: list[str], memory: Memory | None = None) -> Shadow:
    return Shadow(ranks, memory or Memory(), Memory(), told.append)


async def test_what_is_copied_is_kept_as_it_was_once_it_is_complete():
    ranks, state, memory = Ranks(), RunState(step=3), Memory()
    shadow = shadow_of(ranks, [], memory)
    await shadow.keep(state)
    state.step = 4
    memory.entries.append((2, "another"))
    assert shadow.kept is None
    ranks.may_pack.set()
    await shadow.finish()
    assert (shadow.kept.state.step, shadow.kept.lessons, shadow.kept.parts) == (3, [(1, "lesson")], ["part 1"])


async def test_one_at_a_time():
    ranks = Ranks()
    shadow = shadow_of(ranks, [])
    await shadow.keep(RunState(step=1))
    second = asyncio.create_task(shadow.keep(RunState(step=2)))
    await asyncio.sleep(0)
    assert ranks.copied == 1
    ranks.may_pack.set()
    await second
    await shadow.finish()
    assert (ranks.copied, shadow.kept.state.step) == (2, 2)


async def test_a_store_that_is_full_is_told_and_a_lost_rank_raised():
    ranks, told = Ranks(), []
    shadow = shadow_of(ranks, told)
    ranks.may_pack.set()
    await shadow.keep(RunState(step=1))
    await shadow.finish()
    ranks.error = PoolError("policy rank 0, pack: ObjectStoreFullError: full.")
    await shadow.keep(RunState(step=2))
    await shadow.finish()
    assert told == ["the state after step 2 is not in memory: policy rank 0, pack: ObjectStoreFullError: full."]
    ranks.error = LostActor("policy rank 0, pack: its process died.")
    await shadow.keep(RunState(step=3))
    with pytest.raises(LostActor):
        await shadow.keep(RunState(step=4))
    assert shadow.kept.state.step == 1
