"""mel/pairing.py: which trajectories of a mixed group are contrasted."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mel_ray.mel.pairing import (
    common_prefix,
    hardest,
    mean_logprob,
    select_pairs,
    shortest_correct_longest_common_prefix,
)
from mel_ray.mel.registry import PAIR_CHOICES
from mel_ray.records.experience import ContrastivePair
from mel_ray.records.row import correct, incorrect
from mel_ray.records.trajectory import Trajectory
from tests.unit.builders import STOP, exploration, group, turns


def trajectory(tokens, logprob=-0.5):
    return Trajectory.of_one_turn(tokens, [logprob] * len(tokens), "", STOP, 0, 0)


@given(
    st.text("cwnte", max_size=10), st.integers(1, 20), st.integers(0, 5), st.sampled_from(list(PAIR_CHOICES.values()))
)
def test_pairs_are_distinct_and_join_a_correct_with_an_incorrect(letters, count, seed, choice):
    lengths = tuple(range(1, len(letters) + 1))
    judged, drawn = exploration(lengths, letters), group(lengths).trajectories
    good, bad = correct(judged), incorrect(judged)
    pairs = select_pairs(drawn, good, bad, count, seed, choice)
    assert len(set(pairs)) == len(pairs) == min(count, len(good) * len(bad) if good else len(bad))
    for pair in pairs:
        assert letters[pair.correct] == "c" if good else pair.correct is None
        assert letters[pair.incorrect] in "wn"
    assert pairs == select_pairs(drawn, good, bad, count, seed, choice)


def test_pairs_with_the_longest_common_beginning():
    drawn = (trajectory([1, 2, 3, 4]), trajectory([1, 2, 9]), trajectory([1, 7, 8]), trajectory([5, 2]))
    assert common_prefix(drawn[0], drawn[1]) == 2
    pairs = select_pairs(drawn, [0, 3], [1, 2], 3, 0, shortest_correct_longest_common_prefix)
    # trajectory 3 is the shortest correct one and shares nothing; then 0, which shares two tokens with 1
    assert {pairs[0], pairs[1]} == {ContrastivePair(3, 1), ContrastivePair(3, 2)}
    assert pairs[2] == ContrastivePair(0, 1)


def test_hardest_pairs_contrast_the_likeliest_mistake_with_the_unlikeliest_success():
    drawn = tuple(trajectory([1, 2], logprob) for logprob in (-0.1, -3.0, -0.2, -2.0))
    assert select_pairs(drawn, [0, 1], [2, 3], 1, 0, hardest) == (ContrastivePair(1, 2),)


def test_how_likely_a_trajectory_is_does_not_depend_on_what_the_environment_said():
    several = turns([1, 0, 1])
    other = replace(several, logprobs=[several.logprobs[0], -99.0, several.logprobs[2]])
    assert mean_logprob(other) == mean_logprob(several) == pytest.approx(several.logprobs[[0, 2]].mean())
    assert mean_logprob(turns([0, 0])) == 0.0


def test_of_an_all_wrong_group_incorrect_trajectories_stand_alone():
    drawn = tuple(trajectory([1, 2]) for _ in range(4))
    pairs = select_pairs(drawn, [], [0, 2, 3], 2, 5)
    assert len(set(pairs)) == 2
    assert all(pair.correct is None and pair.incorrect in (0, 2, 3) for pair in pairs)
    assert select_pairs(drawn, [], [0, 2, 3], 2, 5) == pairs
    assert {select_pairs(drawn, [], [0, 2, 3], 1, seed)[0].incorrect for seed in range(20)} == {0, 2, 3}
    assert len(select_pairs(drawn, [], [1], 3, 0)) == 1
    assert select_pairs(drawn, [], [], 3, 0) == ()
