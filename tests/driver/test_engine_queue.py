"""rollout/engine_pool.py: whose turn it is where engines are full, and that they can be emptied and frozen."""

import asyncio
from random import Random

import pytest

from benchmarks.simulated_engines import EngineRates, SimulatedPool
from benchmarks.simulated_time import simulate
from mel_ray.records.incident import LostActor, Poison, PoolError
from mel_ray.records.ports import Turn
from tests.driver.simulations import small

RATES = EngineRates(0.1, 0.01, 0.0, 4)


def pool(*overrides):
    return SimulatedPool(small("cluster.rollout.engines=1", "cluster.rollout.max_sequences=1", *overrides), RATES)


async def held(engines, sequences, turn, name, order, seconds=1.0):
    async with engines.lease(sequences, turn):
        order.append(name)
        await asyncio.sleep(seconds)


@pytest.mark.parametrize("seed", range(20))
def test_started_questions_come_before_new_ones_and_those_before_an_evaluation(seed):
    async def main():
        engines, order, random = pool(), [], Random(seed)
        first = asyncio.create_task(held(engines, 2, Turn.NEW, "first", order))
        await asyncio.sleep(0.1)
        asked = [(random.choice(list(Turn)), number) for number in range(12)]
        tasks = []
        for turn, number in asked:
            tasks.append(asyncio.create_task(held(engines, 2, turn, (turn, number), order)))
            await asyncio.sleep(0.01)
        await asyncio.gather(first, *tasks)
        assert order == ["first", *sorted(asked)]

    simulate(main())


@pytest.mark.parametrize("seed", range(10))
def test_an_engine_is_never_handed_more_than_twice_what_it_runs_unless_it_has_nothing(seed):
    async def main():
        engines, random, seen = pool("cluster.rollout.engines=3", "cluster.rollout.max_sequences=4"), Random(seed), []

        async def one():
            await asyncio.sleep(random.random() * 5)
            sequences = random.randint(1, 12)
            async with engines.lease(sequences, random.choice(list(Turn))) as engine:
                seen.append((engine.running, sequences))
                await asyncio.sleep(random.random())

        await asyncio.gather(*(one() for _ in range(60)))
        assert len(seen) == 60
        assert all(running <= 8 or running == sequences for running, sequences in seen)
        assert not any(engine.running for engine in engines.engines)

    simulate(main())


def test_one_who_waits_for_room_is_not_overtaken_by_a_smaller_request_of_its_turn():
    async def main():
        engines, order = pool("cluster.rollout.max_sequences=2"), []
        requests = [("runs", 3), ("large", 4), ("small", 1)]
        tasks = [asyncio.create_task(held(engines, n, Turn.NEW, name, order)) for name, n in requests]
        await asyncio.gather(*tasks)
        assert order == ["runs", "large", "small"]

    simulate(main())


def test_draining_waits_for_what_runs_and_lets_nobody_in():
    async def main():
        engines, order = pool(), []
        tasks = [asyncio.create_task(held(engines, 2, Turn.NEW, name, order, 3.0)) for name in ("runs", "waits")]
        await asyncio.sleep(1)
        await engines.drain()
        assert asyncio.get_running_loop().time() == pytest.approx(3.0)
        await asyncio.sleep(5)
        assert order == ["runs"]
        await engines.resume()
        await asyncio.gather(*tasks)
        assert order == ["runs", "waits"]

    simulate(main())


@pytest.mark.parametrize("is_admitted", [True, False])
def test_draining_does_not_wait_for_one_who_gave_up(is_admitted):
    async def main():
        engines, order, end = pool(), [], asyncio.Event()

        async def runs():
            async with engines.lease(2, Turn.NEW):
                await end.wait()

        running = asyncio.create_task(runs())
        await asyncio.sleep(0)
        waits = asyncio.create_task(held(engines, 2, Turn.NEW, "waits", order))
        await asyncio.sleep(0)
        end.set()
        while is_admitted and engines._queue:  # until it is handed the engine, but does not know yet
            await asyncio.sleep(0)
        waits.cancel()
        await engines.drain()
        await running
        assert order == []
        assert not engines.engines[0].running

    simulate(main())


@pytest.mark.parametrize("is_running", [True, False])
def test_an_engine_that_is_replaced_during_a_pause_is_handed_nothing_and_its_work_is_asked_again(is_running):
    async def main():
        engines, asked = pool("cluster.rollout.engines=2"), []
        old = engines.engines[0]

        async def ask(engine):
            asked.append((engine.name, engine is old, engines._is_frozen))
            await asyncio.sleep(5)
            if engine is old:
                raise PoolError("its process died")
            return engine

        tasks = [asyncio.create_task(engines.on_engine(2, Turn.NEW, ask)) for _ in range(2 * is_running)]
        await asyncio.sleep(1)
        await engines.pause()
        tasks += [asyncio.create_task(engines.on_engine(2, Turn.NEW, ask)) for _ in range(3)]
        engines.members.replace(old, PoolError("its weights are damaged"))
        await asyncio.sleep(10)
        assert len(asked) == len([one for one in asked if not one[2]])  # while it is paused nothing is asked
        assert not engines.engines[0].running
        await engines.resume()
        found = await asyncio.gather(*tasks)
        assert old not in found
        assert len(asked) == len(tasks) + is_running

    simulate(main())


def test_a_failure_of_an_engine_that_stays_is_a_failure():
    async def main():
        engines = pool()

        async def ask(engine):
            raise PoolError("its process died")

        with pytest.raises(PoolError):
            await engines.on_engine(2, Turn.NEW, ask)
        assert not engines.engines[0].running

    simulate(main())


def test_a_pause_freezes_what_runs():
    async def main():
        engines = pool()
        sampled = asyncio.create_task(engines.engines[0].sample(0, (10,)))
        await asyncio.sleep(0.5)
        await engines.pause()
        await asyncio.sleep(100)
        await engines.pause()  # once more changes nothing
        await engines.resume()
        await sampled
        assert asyncio.get_running_loop().time() == pytest.approx(100 + 10 * 0.11)
        clock = await engines.engines[0].take_counts()
        assert (clock.busy_seconds, clock.paused_seconds) == (pytest.approx(1.1), pytest.approx(100))

    simulate(main())


def lost(engine):
    return LostActor("its process died", who=engine.name)


@pytest.mark.parametrize("engines", [1, 3])
def test_what_a_lost_engine_was_at_work_on_is_asked_again_and_only_once(engines):
    """Also where no other engine is left: then all wait for the new one."""

    async def main():
        lent, asked, told = pool(f"cluster.rollout.engines={engines}", "cluster.rollout.max_sequences=8"), [], []
        lent.members.incidents.listen(told.append)
        first = lent.engines[0]

        async def ask(number, engine):
            asked.append(number)
            await asyncio.sleep(1)
            if engine is first:
                raise lost(engine)
            return number

        def call(number):
            return lent.on_engine(2, Turn.NEW, lambda engine: ask(number, engine))

        assert await asyncio.gather(*(call(number) for number in range(6))) == list(range(6))
        await asyncio.sleep(30)  # until the new one has started
        again = len(asked) - 6
        assert 0 < again <= 6
        assert max(asked.count(number) for number in range(6)) == 2
        losses = lent.members.incidents.take()
        assert (losses.restarts, losses.asked_again) == (1, 2 * again)
        assert len(lent.engines) == engines
        assert first not in lent.engines
        assert not any(engine.running or engine.has_suspect for engine in lent.engines)
        assert ("waiting" in [one.kind for one in told]) == (engines == 1)

    simulate(main())


@pytest.mark.parametrize("engines", [1, 2, 4])
def test_a_request_that_no_engine_survives_is_found_out_and_takes_no_other_with_it(engines):
    async def main():
        lent = pool(f"cluster.rollout.engines={engines}", "cluster.rollout.max_sequences=8")
        dead = []

        async def ask(number, engine):
            for _ in range(10):
                await asyncio.sleep(0.1)
                if any(one is engine for one in dead):
                    raise lost(engine)
            if number == 3:
                dead.append(engine)
                raise lost(engine)
            return number

        def call(number):
            return lent.on_engine(2, Turn.NEW, lambda engine: ask(number, engine))

        found = await asyncio.gather(*(call(number) for number in range(8)), return_exceptions=True)
        assert [number for number, one in enumerate(found) if isinstance(one, Poison)] == [3]
        assert [one for one in found if not isinstance(one, Poison)] == [0, 1, 2, 4, 5, 6, 7]
        assert len(dead) == 2
        assert not any(engine.running or engine.has_suspect for engine in lent.engines)

    simulate(main())


def test_where_no_engine_starts_any_more_those_who_wait_hear_why(monkeypatch):
    async def main():
        lent, told = pool(), []
        lent.members.incidents.listen(told.append)

        async def no_room():
            raise PoolError("there is no room")

        def broken(number):
            engine = type(lent)._start(lent, number)
            engine.ready = no_room
            return engine

        lent.members._start = broken

        async def ask(engine):
            raise lost(engine)

        calls = (lent.on_engine(2, Turn.NEW, ask) for _ in range(3))
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert {str(one) for one in found} == {"there is no room"}
        assert [one.kind for one in told] == ["lost", "waiting", "given up"]
        with pytest.raises(PoolError, match="no room"):
            await lent.on_engine(2, Turn.NEW, ask)

    simulate(main())


def test_a_new_engine_is_handed_nothing_before_it_has_been_served():
    async def main():
        lent, order = pool(), []
        old = lent.engines[0]

        async def serve(engine):
            await asyncio.sleep(5)
            order.append("served")

        async def ask(engine):
            if engine is old:
                raise lost(engine)
            order.append("asked")

        lent.members.serve = serve
        await lent.on_engine(2, Turn.NEW, ask)
        assert order == ["served", "asked"]

    simulate(main())


def test_a_silent_engine_is_replaced_and_one_that_answers_is_not():
    async def main():
        lent = pool("cluster.rollout.engines=2")
        silent, talks = lent.engines

        async def ping(seconds):
            await asyncio.sleep(seconds)
            raise LostActor("no answer within 30 s", who=silent.name)

        silent.ping = ping
        lent.members.watch(30)
        await asyncio.sleep(100)
        assert silent not in lent.engines
        assert talks in lent.engines
        assert len(lent.engines) == 2
        lent.members.kill()

    simulate(main())


def test_engines_that_die_together_are_no_fault_of_what_was_asked():
    """As those of a lost node do: the second one is dead already when it is handed out."""

    async def main():
        lent = pool("cluster.rollout.engines=3")
        dead = lent.engines[:2]

        async def gone(seconds):
            raise LostActor("its process died", who="another")

        async def ask(engine):
            await asyncio.sleep(0.1)
            if any(one is engine for one in dead):
                raise lost(engine)
            return engine.name

        for engine in dead:
            engine.ping = gone
        third = lent.engines[2]
        assert await lent.on_engine(1, Turn.NEW, ask) == third.name
        assert not any(one is engine for one in lent.engines for engine in dead)
        assert lent.members.incidents.take().asked_again == 1

    simulate(main())
