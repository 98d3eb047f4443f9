"""driver/buffer.py: how far ahead is explored, and what the clock says of it, in virtual time."""

import asyncio
from contextlib import nullcontext

import pytest

from benchmarks.simulated_time import Stuck, simulate
from mel_ray.driver.buffer import Buffer


class Timed:
    """Batches that take the given seconds."""

    turn = nullcontext()

    def __init__(self, *seconds):
        self.seconds, self.begun, self.is_closed = seconds, [], False

    async def batch(self, step):
        self.begun.append((step, asyncio.get_running_loop().time()))
        await asyncio.sleep(self.seconds[step - 1])
        return [step]

    def hand_over(self, batch):
        return [f"batch {batch[0]}"]

    async def close(self):
        self.is_closed = True


def taken(capacity, seconds, learning):
    """What was begun and when, and per step what the buffer said: when it was taken, `explored_in`, `idle`."""

    async def main():
        batches = Timed(*seconds)
        buffer, told = Buffer(batches, capacity, len(seconds)), []
        for step in range(1, len(seconds) + 1):
            assert await buffer.take(step) == [f"batch {step}"]
            told.append((asyncio.get_running_loop().time(), buffer.explored_in, buffer.idle))
            await asyncio.sleep(learning)
        await buffer.close()
        assert batches.is_closed
        return batches.begun, told

    return simulate(main())


def test_without_capacity_the_halves_alternate():
    begun, told = taken(0, (4, 4, 4), 3)
    assert begun == [(1, 0), (2, 7), (3, 14)]
    assert told == [(4, 4, 0), (11, 4, 3), (18, 4, 3)]  # the explorer had no room while the policy trained


def test_with_room_for_one_batch_the_halves_overlap():
    begun, told = taken(1, (4, 4, 4, 4), 3)
    assert begun == [(1, 0), (2, 0), (3, 7), (4, 10)]
    assert [time for time, *_ in told] == [4, 7, 11, 14]
    assert [explored for _, explored, _ in told] == [4, 4, 4, 4]
    assert [idle for *_, idle in told] == [0, 3, 0, 0]  # from 4 to 7 both batches were done


def test_a_slow_explorer_is_never_without_room():
    _, told = taken(2, (5, 10, 15, 20, 25), 1)
    assert all(idle == 0 for *_, idle in told)


@pytest.mark.parametrize("capacity", range(5))
def test_no_more_is_begun_than_there_is_room_for_nor_after_the_last_step(capacity):
    begun, _ = taken(capacity, (1,) * 6, 1)
    assert [step for step, _ in begun] == [1, 2, 3, 4, 5, 6]
    assert [step for step, at in begun if at == 0] == list(range(1, min(capacity + 1, 6) + 1))


def test_a_step_beyond_the_last_can_be_asked_for():
    async def main():
        buffer = Buffer(Timed(1, 1), 1, 1)
        assert [await buffer.take(1), await buffer.take(2)] == [["batch 1"], ["batch 2"]]

    simulate(main())


def test_one_who_gives_up_waiting_ends_the_exploration():
    async def main():
        buffer = Buffer(Timed(10, 10), 0, 2)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await buffer.take(1)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    simulate(main())


def test_closing_ends_what_is_explored_ahead():
    async def main():
        buffer = Buffer(Timed(1, 100, 100), 2, 3)
        await buffer.take(1)
        await buffer.close()
        assert asyncio.get_running_loop().time() == 1
        assert asyncio.all_tasks() == {asyncio.current_task()}

    simulate(main())


def test_in_virtual_time_a_run_that_cannot_go_on_is_an_error():
    async def main():
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Stuck):
        simulate(main())


def test_what_passes_between_two_steps_is_no_lack_of_room():
    async def main():
        buffer = Buffer(Timed(1, 1, 1), 1, 3)
        await buffer.take(1)  # batch 2 is gathered at the same time
        await asyncio.sleep(5)  # a step, in which the explorer has no room
        with buffer.clock_stopped():
            await asyncio.sleep(100)
        await buffer.take(2)
        return buffer.idle

    assert simulate(main()) == 5
