"""benchmarks/simulated_engines.py: the model of an engine does what it says."""

import asyncio

import pytest

from benchmarks.simulated_engines import EngineRates, SimulatedEngine
from benchmarks.simulated_time import simulate

RATES = EngineRates(step=1.0, sequence=0.1, prefill=0.01, slots=4)


def now():
    return asyncio.get_running_loop().time()


def engine():
    return SimulatedEngine("rollout-0", RATES)


@pytest.mark.parametrize("sequences", [1, 4])
def test_a_step_takes_longer_the_more_sequences_run_and_a_shared_prompt_is_prefilled_once(sequences):
    async def main():
        await engine().sample(100, (10,) * sequences)
        assert now() == pytest.approx(100 * 0.01 + 10 * (1 + 0.1 * sequences))

    simulate(main())


def test_when_a_sequence_ends_the_others_are_faster():
    async def main():
        await engine().sample(0, (5, 10))
        assert now() == pytest.approx(5 * 1.2 + 5 * 1.1)

    simulate(main())


def test_what_finds_no_slot_waits_for_one():
    async def main():
        one = engine()
        await one.sample(0, (10,) * 5)
        assert now() == pytest.approx(10 * 1.4 + 10 * 1.1)
        assert (await one.take_counts()).sampled_tokens == 50
        assert (await one.take_counts()).sampled_tokens == 0

    simulate(main())


def test_tokens_carry_the_version_of_the_moment_they_are_decoded():
    async def main():
        one = engine()
        task = asyncio.create_task(one.sample(0, (10, 3)))
        await asyncio.sleep(4.5 * 1.2 - 3 * 0.1 + 0.0)  # the short one has ended; the other is between two tokens
        await one.pause()
        one.load(7, keep_kv=True)
        await one.resume()
        assert await task == [((4, 0), (6, 7)), ((3, 0),)]

    simulate(main())


@pytest.mark.parametrize("keep_kv", [True, False])
def test_a_cleared_cache_is_computed_again_before_decoding_goes_on(keep_kv):
    async def main():
        one = engine()
        task = asyncio.create_task(one.sample(100, (10, 10)))
        await asyncio.sleep(1.0 + 4 * 1.2)
        await one.pause()
        one.load(1, keep_kv)
        await one.resume()
        await task
        again = 0 if keep_kv else 100 + 2 * 4
        assert now() == pytest.approx(1.0 + 10 * 1.2 + again * 0.01)
        assert (await one.take_counts()).recomputed_tokens == again

    simulate(main())


def test_weights_are_not_put_under_a_decoding_engine():
    async def main():
        one = engine()
        task = asyncio.create_task(one.sample(0, (10,)))
        await asyncio.sleep(1)
        with pytest.raises(RuntimeError, match="1 sequences were decoded"):
            one.load(1, keep_kv=False)
        await task
        one.load(1, keep_kv=False)
        assert await one.sample(0, (2,)) == [((2, 1),)]

    simulate(main())


def test_one_who_gives_up_makes_room():
    async def main():
        one = engine()
        task = asyncio.create_task(one.sample(0, (1000,) * 6))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await one.sample(0, (10,))
        assert now() == pytest.approx(1 + 10 * 1.1)

    simulate(main())
