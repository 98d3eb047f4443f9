"""data/interleave.py: exact shares, no question twice in a step, and a position that restores everything."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mel_ray.config.load import compose_config
from mel_ray.data.interleave import MixedStream, SpacedOrder, Turns, most_asked, stream_of
from mel_ray.data.prompts import PromptStream
from mel_ray.records.question import Question, Truth
from mel_ray.records.trajectory import Prompt
from tests.unit.builders import config_of

WEIGHT = st.one_of(st.integers(1, 9).map(float), st.floats(0.01, 50, allow_nan=False), st.sampled_from([0.5, 0.1, 1.0]))
WEIGHTS = st.lists(WEIGHT, min_size=1, max_size=6)


def shares(weights: list[float]) -> list[Fraction]:
    exact = [Fraction(str(weight)) for weight in weights]
    return [one / sum(exact) for one in exact]


@given(WEIGHTS, st.integers(1, 120))
@settings(deadline=None)
def test_after_any_number_of_questions_each_count_is_right_to_less_than_one(weights, count):
    turns = Turns(weights)
    for number in range(1, count + 1):
        turns.take()
        assert sum(turns.counts) == number
        for share, taken in zip(shares(weights), turns.counts, strict=True):
            assert abs(taken - number * share) < 1


@given(WEIGHTS, st.integers(1, 20), st.integers(0, 60))
@settings(deadline=None)
def test_every_batch_is_right(weights, size, start):
    turns = Turns(weights)
    for _ in range(start):
        turns.take()
    batch = [turns.take() for _ in range(size)]
    for index, share in enumerate(shares(weights)):
        off = abs(batch.count(index) - size * share)
        assert off < (1 if len(weights) <= 2 else 2)
        assert batch.count(index) <= turns.most_in(size, index)
        if all((size * one).denominator == 1 for one in shares(weights)):
            assert off == 0


@given(WEIGHTS, st.integers(0, 5000))
@settings(deadline=None)
def test_the_turns_can_be_found_from_the_position(weights, position):
    there, walked = Turns(weights), Turns(weights)
    there.go_to(position)
    for _ in range(position):
        walked.take()
    assert there.counts == walked.counts
    assert [there.take() for _ in range(20)] == [walked.take() for _ in range(20)]


def test_a_position_far_ahead_is_found_at_once():
    turns = Turns([2, 1])
    turns.go_to(3 * 10**12 + 1)
    assert sorted(turns.counts) == [10**12, 2 * 10**12 + 1]


def test_worked_example():
    turns = Turns([2, 1, 1])
    assert [turns.take() for _ in range(8)] == [0, 1, 2, 0, 0, 1, 2, 0]


@given(st.integers(1, 14), st.integers(0, 16), st.integers(0, 3))
def test_an_order_visits_everything_each_epoch_and_keeps_repetitions_apart(count, spacing, seed):
    order = SpacedOrder(count, str(seed), spacing)
    taken = [order.at(position) for position in range(6 * count)]
    for epoch in range(6):
        assert sorted(taken[epoch * count : (epoch + 1) * count]) == list(range(count))
    apart = min(count, spacing)
    for start in range(len(taken) - apart):
        assert len(set(taken[start : start + apart])) == apart
    assert [order.at(position) for position in reversed(range(6 * count))] == taken[::-1]


def test_epochs_and_seeds_differ():
    orders = [SpacedOrder(30, seed, 8) for seed in "ab"]
    epochs = [[order.at(30 * epoch + n) for n in range(30)] for order in orders for epoch in range(3)]
    assert len({tuple(one) for one in epochs}) == 6


def prompts_of(sizes: dict[str, int]) -> list[Prompt]:
    return [
        Prompt(Question(f"{name} {n}", Truth("1"), source=name), [1])
        for name, size in sizes.items()
        for n in range(size)
    ]


def stream(sizes: dict[str, int], weights: list[float], most: int, position: int = 0) -> MixedStream:
    sources = [{"name": name, "weight": weight} for name, weight in zip(sizes, weights, strict=True)]
    config = config_of(f"data.train={sources}", f"rollout.prompts_per_step={most}")
    found = stream_of(prompts_of(sizes), config, position)
    assert isinstance(found, MixedStream)
    return found


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=4),
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.integers(0, 12),
    st.data(),
)
@settings(deadline=None, max_examples=50)
def test_the_mixed_order_resumes_exactly_whatever_was_taken_at_a_time(sizes, takes, cut, data):
    """Dynamic sampling takes single questions after a batch: the order must not depend on that."""
    named = {f"s{n}": size for n, size in enumerate(sizes)}
    weights = data.draw(st.lists(st.integers(1, 5), min_size=len(sizes), max_size=len(sizes)))
    whole = stream(named, weights, 9)
    everything = [prompt.question_id for prompt in whole.take(sum(takes))]
    first = stream(named, weights, 9)
    head = [prompt.question_id for take in takes[:cut] for prompt in first.take(take)]
    assert first.position == len(head)
    second = stream(named, weights, 9, first.position)
    tail = [prompt.question_id for take in takes[cut:] for prompt in second.take(take)]
    assert head + tail == everything
    assert whole.position == second.position == sum(takes)


@given(st.integers(3, 12), st.integers(3, 12), st.integers(1, 4), st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_no_batch_asks_a_question_twice(small, large, first, second):
    found, size = stream({"a": small, "b": large}, [first, second], 6), 6
    turns = Turns([first, second])
    for _ in range(30):
        asked = [prompt.question for prompt in found.take(size)]
        for index, (name, count) in enumerate((("a", small), ("b", large))):
            own = [question.text for question in asked if question.source == name]
            if turns.most_in(size, index) <= count:
                assert len(set(own)) == len(own)


def test_one_source_has_the_order_it_always_had():
    prompts = prompts_of({"train": 7})
    ours, theirs = stream_of(prompts, config_of(), 3), PromptStream(prompts, 0, 3)
    for count in (4, 5, 1, 7):
        assert ours.take(count) == theirs.take(count)
    assert ours.position == theirs.position


@pytest.mark.parametrize(("dynamic", "most"), [("false", 16), ("true", 48)])
def test_what_a_step_may_ask(dynamic, most):
    config = compose_config(
        [f"algorithm.dynamic_sampling.enabled={dynamic}", "algorithm.dynamic_sampling.max_factor=3"]
    )
    assert most_asked(config) == most


def test_a_partial_run_has_more_under_way():
    partial = ("rollout.partial=true", "driver.publish=in_flight", "rollout.oversample=0.5")
    assert most_asked(compose_config(["rollout.prompts_per_step=8", *partial])) == 12
