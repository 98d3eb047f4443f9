"""driver/batches.py: which questions make up a batch when they are done at different times, in virtual time."""

import asyncio
from random import Random
from unittest import mock

import pytest

from benchmarks.simulated_time import simulate
from mel_ray.data.prompts import PromptStream
from mel_ray.driver.batches import Batches
from mel_ray.driver.buffer import Buffer
from mel_ray.records.ledger import TrajectoryFate
from tests.driver.simulations import small
from tests.unit.builders import exploration, prompt

PARTIAL = ("rollout.partial=true", "driver.publish=in_flight")
DYNAMIC = ("algorithm.dynamic_sampling.enabled=true",)


class Questions:
    """In the data's order by number: how long each takes, and the letters of its verdicts."""

    def __init__(self, seconds, letters=()):
        self.names = [f"q{n}" for n in range(len(seconds))]
        stream = PromptStream([prompt(question_id=name) for name in self.names], 0)
        self.order = [one.question_id for one in stream.take(len(seconds))]
        self.seconds, self.letters = seconds, letters or ["cw"] * len(seconds)
        self.asked, self.steps = [], {}

    def data(self):
        return PromptStream([prompt(question_id=name) for name in self.names], 0)

    async def explore(self, one, step):
        number = self.order.index(one.question_id)
        self.asked.append(number)
        self.steps[number] = step
        await asyncio.sleep(self.seconds[number])
        return exploration((4, 4), self.letters[number], ref=one.question_id, question_id=one.question_id)

    def numbers(self, batch):
        return [self.order.index(one.prompt.question_id) for one in batch]


def gathered(questions, steps, *overrides):
    """The numbers of the questions of each batch, and when it was closed."""

    async def main():
        batches, found = Batches(questions.explore, questions.data(), small(*overrides)), []
        for step in range(1, steps + 1):
            batch = await batches.batch(step)
            found.append((questions.numbers(batch), asyncio.get_running_loop().time()))
            batches.hand_over(batch)
        left = questions.numbers(batches.asked)
        await batches.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return found, left

    return simulate(main())


def test_fixed_batches_are_the_next_questions_of_the_data():
    questions = Questions([5, 1, 1, 9, 1, 1])
    assert gathered(questions, 3, "rollout.prompts_per_step=2") == ([([0, 1], 5), ([2, 3], 14), ([4, 5], 15)], [])


def test_a_partial_batch_is_the_first_questions_to_be_done_in_the_order_of_the_data():
    questions = Questions([9, 2, 1, 1, 2, 7, 1, 1, 1])
    found, left = gathered(questions, 3, *PARTIAL, "rollout.prompts_per_step=2", "rollout.oversample=0.5")
    # three are under way: 0, 1 and 2 until 2 s, then 0, 3 and 4
    assert found[0] == ([1, 2], 2)
    assert found[1] == ([3, 4], 4)
    assert found[2] == ([0, 6], 9)  # the long one comes out, and in its place in the data
    assert left == [5]
    assert questions.steps[0] == 1  # its seeds are those of the step that asked it


def test_partial_questions_under_way_are_a_batch_and_the_share_beyond_it():
    questions = Questions([100] * 2 + [1] * 20)
    found, _ = gathered(questions, 1, *PARTIAL, "rollout.prompts_per_step=4", "rollout.oversample=0.5")
    assert sorted(questions.asked) == [0, 1, 2, 3, 4, 5]
    assert found == [([2, 3, 4, 5], 1)]


@pytest.mark.parametrize("seconds", [[1] * 9, [5, 1, 1, 1, 3, 1, 1, 1, 1], [1, 2, 3, 4, 5, 4, 3, 2, 1]])
def test_dynamic_sampling_asks_one_more_for_each_silent_group_whatever_the_timing(seconds):
    letters = ["cc", "cw", "ww", "cw", "cc", "cw", "cw", "cw", "cw"]
    found, left = gathered(Questions(seconds, letters), 2, *DYNAMIC, "rollout.prompts_per_step=2")
    assert [numbers for numbers, _ in found] == [[0, 1, 2, 3], [4, 5, 6]]
    assert left == []


def test_dynamic_and_partial_batches_hold_enough_mixed_groups_and_the_silent_ones_that_were_done():
    questions = Questions([1, 1, 1, 9, 2, 2, 2, 2, 2, 2], ["cc", "cw", "ww", "cw"] + ["cw"] * 6)
    found, _ = gathered(questions, 1, *PARTIAL, *DYNAMIC, "rollout.prompts_per_step=2", "rollout.oversample=0.5")
    assert found == [([0, 1, 2, 4], 3)]


@pytest.mark.parametrize("mode", [(), PARTIAL])
def test_dynamic_sampling_ends_at_its_limit(mode):
    questions = Questions([1] * 20, ["cc"] * 20)
    found, _ = gathered(questions, 1, *mode, *DYNAMIC, "rollout.prompts_per_step=2",
                        "algorithm.dynamic_sampling.max_factor=2")  # fmt: skip
    assert len(found[0][0]) >= 4
    assert len(questions.asked) <= 8


def test_what_is_handed_over_is_no_longer_asked_and_silent_groups_are_filtered():
    async def main():
        questions = Questions([1, 1, 1], ["cc", "cw", "cw"])
        batches = Batches(questions.explore, questions.data(), small(*DYNAMIC, "rollout.prompts_per_step=2"))
        batch = await batches.batch(1)
        explored = batches.hand_over(batch)
        assert batches.asked == []
        fates = [{row.fate for row in rows} for rows in explored]
        assert fates == [{None}, {None}, {TrajectoryFate.FILTERED}]  # those that are trained first

    simulate(main())


@pytest.mark.parametrize("seed", range(20))
def test_the_last_partial_batch_with_dynamic_sampling_gives_nothing_up(seed):
    random = Random(seed)
    seconds = [random.choice([1, 2, 9]) for _ in range(60)]
    questions = Questions(seconds, [random.choice(["cc", "ww", "cw"]) for _ in seconds])
    found, left = gathered(questions, 4, *PARTIAL, *DYNAMIC, "rollout.prompts_per_step=2",
                           "algorithm.dynamic_sampling.max_factor=2")  # fmt: skip
    assert left == []
    assert sorted(n for numbers, _ in found for n in numbers) == sorted(questions.asked)


@pytest.mark.parametrize("mode", [DYNAMIC, (*PARTIAL, *DYNAMIC)])
def test_dynamic_sampling_of_all_questions_there_are_ends(mode):
    questions = Questions([1] * 5, ["cc"] * 5)
    found, _ = gathered(questions, 1, *mode, "rollout.prompts_per_step=2")  # at most six, and there are five
    assert found[0][0] == [0, 1, 2, 3, 4]


def test_time_is_counted_from_when_a_batch_may_be_gathered():
    async def main():
        batches = Batches(Questions([5] * 9).explore, Questions([5] * 9).data(), small(*DYNAMIC))
        buffer = Buffer(batches, capacity=1, last=4)
        with mock.patch("time.monotonic", asyncio.get_running_loop().time):
            await buffer.take(1)
            assert buffer.explored_in == 5
            await buffer.take(2)
            assert buffer.explored_in == 5
        await buffer.close()

    simulate(main())


@pytest.mark.parametrize("mode", [(), DYNAMIC, PARTIAL])
def test_the_first_failure_cancels_the_others(mode):
    async def main():
        questions = Questions([5, 1, 9])

        async def explore(one, step):
            explored = await questions.explore(one, step)
            if questions.order.index(one.question_id) == 1:
                raise RuntimeError("the verifier is gone")
            return explored

        batches = Batches(explore, questions.data(), small(*mode, "rollout.prompts_per_step=2"))
        with pytest.raises((RuntimeError, ExceptionGroup)):
            await batches.batch(1)
        assert asyncio.get_running_loop().time() == 1
        await batches.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    simulate(main())


def test_a_partial_question_that_failed_between_two_batches_is_not_passed_over():
    async def main():
        questions = Questions([1, 1, 3, 1, 1, 1, 1])

        async def explore(one, step):
            explored = await questions.explore(one, step)
            if questions.order.index(one.question_id) == 2:
                raise RuntimeError("the verifier is gone")
            return explored

        config = small(*PARTIAL, "rollout.prompts_per_step=2", "rollout.oversample=1.0")
        batches = Batches(explore, questions.data(), config)
        assert questions.numbers(await batches.batch(1)) == [0, 1]
        await asyncio.sleep(10)
        with pytest.raises(RuntimeError, match="the verifier is gone"):
            await batches.batch(2)
        await batches.close()

    simulate(main())


@pytest.mark.parametrize("mode", [PARTIAL, ()])
def test_a_batch_larger_than_the_data_takes_little_more_than_the_data_twice(mode):
    questions = Questions([1.0] * 20)
    data = questions.data()
    config = small(*mode, "rollout.prompts_per_step=30", "driver.capacity=0", "run.steps=3")

    async def main():
        batches = Batches(questions.explore, data, config)
        batch = await batches.batch(1)
        await batches.close()
        return batch

    assert len(simulate(main())) == 20
    assert data.position <= 80
