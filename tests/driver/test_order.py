"""driver/order.py: what waits for what when an order of arrival is repeated."""

import asyncio

import pytest

from benchmarks.simulated_time import simulate
from mel_ray.driver.order import AsItComes, DifferentRun, Replayed

ROLLOUT, DRAFTS = ("q", "rollout"), ("q", "drafts")


def test_without_an_order_nothing_is_held_back():
    async def main():
        order = AsItComes()
        async with order.publishing(5), order.sampling(1, ROLLOUT):
            pass
        assert asyncio.get_running_loop().time() == 0

    simulate(main())


def replayed(steps, *events, version=0):
    """When each event was let through; one is (seconds, "sample", step, sample) or (seconds, "publish", version), and
    lasts a second."""

    async def main():
        order, passed = Replayed("first", steps, version), {}

        async def happens(at, what, *arguments):
            await asyncio.sleep(at)
            enter = order.sampling if what == "sample" else order.publishing
            async with enter(*arguments):
                passed[what, *arguments] = asyncio.get_running_loop().time()
                await asyncio.sleep(1)

        async with asyncio.TaskGroup() as group:
            for event in events:
                group.create_task(happens(*event))
        return list(passed.values())

    return simulate(main())


def test_a_sample_waits_until_its_weights_are_there():
    events = (0, "sample", 1, ROLLOUT), (3, "publish", 1)
    assert replayed({1: {ROLLOUT: 1}}, *events) == [3, 4]


def test_weights_wait_until_all_samples_of_earlier_weights_are_there():
    events = (5, "sample", 2, ROLLOUT), (7, "sample", 2, DRAFTS), (0, "publish", 1)
    assert replayed({2: {ROLLOUT: 0, DRAFTS: 0}}, *events) == [5, 7, 8]


def test_weights_do_not_wait_for_samples_of_these_weights_or_later_ones():
    events = (9, "sample", 2, ROLLOUT), (0, "publish", 1), (2, "publish", 2)
    assert replayed({2: {ROLLOUT: 2}}, *events) == [0, 2, 9]


def test_samples_of_the_weights_that_a_run_begins_with_do_not_wait():
    assert replayed({3: {ROLLOUT: 4}}, (1, "sample", 3, ROLLOUT), version=4) == [1]


@pytest.mark.parametrize("asked", [(1, DRAFTS), (2, ROLLOUT), (1, ("other", "rollout"))])
def test_a_sample_that_the_other_run_does_not_have_is_an_error(asked):
    async def main():
        async with Replayed("first", {1: {ROLLOUT: 0}}).sampling(*asked):
            pass

    step, (question_id, what) = asked
    with pytest.raises(DifferentRun, match=f"^step {step}: run first has no {what} of question {question_id}, so "):
        simulate(main())


def test_what_only_the_other_run_sampled_is_missed_when_a_question_or_a_step_is_done():
    order = Replayed("first", {1: {ROLLOUT: 0, DRAFTS: 0}, 2: {ROLLOUT: 0}})

    async def main():
        async with order.sampling(1, ROLLOUT):
            pass
        order.explored(1, "another")
        with pytest.raises(DifferentRun, match="step 1: run first has drafts of question q and this one has not"):
            order.explored(1, "q")
        with pytest.raises(DifferentRun, match="step 2: run first has rollout of question q"):
            order.closed(2)
        order.closed(3)

    simulate(main())


def test_a_sample_whose_weights_are_gone_is_not_taken_under_newer_ones():
    async def main():
        order = Replayed("first", {3: {ROLLOUT: 1}}, version=2)
        with pytest.raises(DifferentRun, match="Begin the replay anew"):
            async with order.sampling(3, ROLLOUT):
                raise AssertionError("sampled under other weights")

    simulate(main())


@pytest.mark.parametrize(("version", "words"), [(1, "run first made an optimizer step"), (3, "this run made an")])
def test_weights_that_are_counted_differently_are_noticed_at_once(version, words):
    order = Replayed("first", {}, trained_from={2: 1, 3: 2})
    order.learned(1, 1)
    with pytest.raises(DifferentRun, match=f"step 2: {words}"):
        order.learned(2, version)
    order.learned(3, 7)  # the last step has no other to compare with


def test_weights_do_not_wait_for_ever_for_samples_of_weights_that_are_lost():
    """The only engine was lost while the policy trained: a new one has the new weights."""

    async def main():
        order = Replayed("first", {1: {ROLLOUT: 0, DRAFTS: 0}}, patience=60.0)

        async def late():
            await asyncio.sleep(50)
            async with order.sampling(1, ROLLOUT):
                pass

        task = asyncio.create_task(late())
        with pytest.raises(DifferentRun, match=r"nothing came for 60 s.*Begin the replay anew"):
            async with order.publishing(1):
                raise AssertionError("published too early")
        await task
        assert asyncio.get_running_loop().time() == 110

    simulate(main())
