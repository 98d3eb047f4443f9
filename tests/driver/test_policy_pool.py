"""policy/policy_pool.py: collective calls of which one rank fails."""

import asyncio

import pytest

from benchmarks.simulated_time import simulate
from mel_ray.policy.policy_pool import PolicyActor, PolicyPool
from mel_ray.records.incident import LostActor, PoolError


class Rank:
    """Fails at once, or waits for the others for half an hour."""

    def __init__(self, number: int, fails: bool) -> None:
        self.name, self.fails = f"policy rank {number}", fails

    async def ask(self, method, seconds, what):
        if self.fails:
            raise PoolError(f"{self.name}, {method.__name__}: MemoryError.")
        await asyncio.sleep(seconds)
        raise LostActor(f"{self.name}: no answer", who=self.name)


def copied_by(*fails: bool) -> float:
    """Seconds until it fails."""

    async def main():
        pool = PolicyPool.__new__(PolicyPool)
        pool.handles = [Rank(number, one) for number, one in enumerate(fails)]
        began = asyncio.get_running_loop().time()
        with pytest.raises(PoolError) as raised:
            await pool._together(PolicyActor.shadow, 1800.0)
        return raised.value, asyncio.get_running_loop().time() - began

    return simulate(main())


def test_one_that_fails_alone_is_lost_because_the_others_wait_for_it():
    error, seconds = copied_by(False, True, False)
    assert isinstance(error, LostActor)
    assert error.who == "policy rank 1"
    assert str(error) == "policy rank 1, shadow: MemoryError. The other ranks wait for it."
    assert seconds < 60


def test_where_all_fail_nobody_waits():
    error, seconds = copied_by(True, True)
    assert not isinstance(error, LostActor)
    assert seconds < 1
