"""Advantage estimators, shaping, KL estimators, aggregation and pass@k, against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mel_ray.policy.advantages import (
    batch_whitened,
    correct_only,
    group_centred,
    group_standardised,
    leave_one_out,
    token_moments,
)
from mel_ray.policy.aggregation import token_weights
from mel_ray.policy.kl import kl_estimate, kl_to_go
from mel_ray.evaluation.pass_at_k import pass_at_k
from mel_ray.policy.shaping import overlong_penalty, shaped

GROUP_ESTIMATORS = [group_standardised, group_centred, leave_one_out]
REWARDS = st.lists(st.sampled_from([0.0, 1.0, 0.5, None]), max_size=64)


def test_golden_numbers_of_grpo():
    # mean 1/2; Bessel std = sqrt(4 * (1/4) / 3) = 0.5773503; 0.5 / (0.5773503 + 1e-6) = 0.8660239
    assert group_standardised([1, 0, 0, 1], 1e-6) == pytest.approx(
        [0.8660239, -0.8660239, -0.8660239, 0.8660239], abs=1e-7
    )


def test_golden_numbers_of_dr_grpo_and_rloo():
    assert group_centred([1, 0, 0, 1]) == pytest.approx([0.5, -0.5, -0.5, 0.5])
    # the others' mean: 1/3 beside a correct one, 2/3 beside a wrong one
    assert leave_one_out([1, 0, 0, 1]) == pytest.approx([0.6666667, -0.6666667, -0.6666667, 0.6666667], abs=1e-7)
    assert leave_one_out([1, 0, 0, 0]) == pytest.approx([1.0, -1 / 3, -1 / 3, -1 / 3])


def test_golden_numbers_of_reinforce_pp():
    # tokens: two of reward 1, six of reward 0; mean 1/4, variance 1/4 * 3/4 = 3/16, std 0.4330127
    whitened = batch_whitened([1, 0], [2, 6], eps=0.0)
    assert whitened == pytest.approx([0.75 / 0.4330127, -0.25 / 0.4330127], abs=1e-6)
    assert token_moments([1, 0], [2, 6]) == pytest.approx((0.25, 0.4330127))


def test_whitening_sees_the_batch_where_group_estimators_see_the_group():
    # a group that is all right beside one that is all wrong: no contrast within, much between
    assert not group_standardised([1, 1]).any()
    assert batch_whitened([1, 1, 0, 0], [3, 3, 3, 3]) == pytest.approx([1, 1, -1, -1], abs=1e-5)


def test_rejection_sampling_has_signal_without_contrast():
    assert correct_only([True, True]).tolist() == [1, 1]
    assert correct_only([False, False]).tolist() == [0, 0]


@pytest.mark.parametrize("estimator", GROUP_ESTIMATORS)
@pytest.mark.parametrize("rewards", [[1.0], [0.0, 0.0, 0.0], [1.0, 1.0], [], [None, 1.0], [None, None], [0.1] * 7])
def test_no_contrast_means_no_signal(estimator, rewards):
    advantages = estimator(rewards)
    assert len(advantages) == len(rewards)
    assert not advantages.any()
    assert not batch_whitened(rewards, [3] * len(rewards)).any()


@pytest.mark.parametrize("estimator", GROUP_ESTIMATORS)
def test_unjudged_trajectories_take_no_part(estimator):
    with_failures = estimator([1.0, None, 0.0, None, 0.0, 1.0])
    assert with_failures[[1, 3]] == pytest.approx([0, 0])
    assert with_failures[[0, 2, 4, 5]] == pytest.approx(estimator([1.0, 0.0, 0.0, 1.0]))


@pytest.mark.parametrize("estimator", GROUP_ESTIMATORS)
@given(rewards=REWARDS)
def test_advantages_sum_to_zero_and_order_as_rewards(estimator, rewards):
    advantages = estimator(rewards)
    assert np.isfinite(advantages).all()
    assert abs(advantages.sum()) < 1e-3
    judged = [(r, a) for r, a in zip(rewards, advantages, strict=True) if r is not None]
    for first, first_advantage in judged:
        for second, second_advantage in judged:
            assert first <= second or first_advantage >= second_advantage


@given(REWARDS, st.randoms())
def test_whitened_advantages_have_zero_mean_over_tokens_whatever_the_order(rewards, random):
    lengths = [random.randint(1, 50) for _ in rewards]
    advantages = batch_whitened(rewards, lengths)
    judged = sum(n for n, r in zip(lengths, rewards, strict=True) if r is not None)
    assert abs(float((advantages * np.array(lengths)).sum())) < 1e-3 * max(1, judged)
    order = list(range(len(rewards)))
    random.shuffle(order)
    again = batch_whitened([rewards[i] for i in order], [lengths[i] for i in order])
    assert again == pytest.approx(advantages[order], abs=1e-5)


def aggregate(losses: list[list[float]], aggregation: str) -> float:
    weights = token_weights([len(one) for one in losses], aggregation, max_tokens=8)
    return sum(weight * sum(one) for weight, one in zip(weights, losses, strict=True))


def test_golden_numbers_of_aggregation():
    losses = [[1.0, 3.0], [1.0, 1.0, 1.0, 1.0]]
    assert aggregate(losses, "token_mean") == pytest.approx(8 / 6)  # all tokens alike
    assert aggregate(losses, "seq_mean_token_mean") == pytest.approx(1.5)  # (2 + 1) / 2
    assert aggregate(losses, "seq_mean_token_sum") == pytest.approx(4.0)  # (4 + 4) / 2
    assert aggregate(losses, "dr_grpo") == pytest.approx(0.5)  # (4 + 4) / (2 * 8)


def test_golden_numbers_of_the_overlong_penalty():
    # DAPO: max 100, zone 20: nothing up to 80, half way at 90, all at 100 and beyond
    lengths = [0, 80, 81, 90, 100, 101, 110]
    assert [overlong_penalty(n, 100, 20) for n in lengths] == pytest.approx([0, 0, -0.05, -0.5, -1, -1, -1])
    assert [overlong_penalty(n, 100, 0) for n in (100, 101)] == [0, -1]


def test_shaped_rewards():
    assert [shaped(r, -1.0) for r in (0.0, 0.5, 1.0, None)] == [-1.0, 0.0, 1.0, None]
    assert shaped(1.0, 0.0, -0.25) == 0.75
    assert shaped(None, 0.0, -0.25) is None


def test_golden_numbers_of_kl():
    d = torch.tensor([-3.0, 0.0, 0.5], dtype=torch.float64)
    zero = torch.zeros(3, dtype=torch.float64)
    assert kl_estimate(d, zero, "k1").tolist() == [-3.0, 0.0, 0.5]
    assert kl_estimate(d, zero, "k2").tolist() == [4.5, 0.0, 0.125]
    # exp(3) - 1 - 3 = 16.0855; exp(-0.5) - 1 + 0.5 = 0.1065
    assert kl_estimate(d, zero, "k3").tolist() == pytest.approx([16.08554, 0.0, math.exp(-0.5) - 0.5], abs=1e-5)


@given(st.lists(st.lists(st.floats(-2, 2), min_size=1, max_size=6), max_size=6))
def test_kl_to_go_adds_up_what_follows_within_the_row(values):
    rows = torch.tensor([number for number, row in enumerate(values) for _ in row], dtype=torch.long)
    flat = torch.tensor([x for row in values for x in row], dtype=torch.float64)
    expected = [sum(row[t:]) for row in values for t in range(len(row))]
    assert kl_to_go(flat, rows).tolist() == pytest.approx(expected, abs=1e-9)


def test_pass_at_k():
    assert pass_at_k(8, 2, 4) == pytest.approx(0.7857143)  # 1 - C(6,4)/C(8,4) = 1 - 15/70
    assert pass_at_k(8, 0, 8) == 0
    assert pass_at_k(8, 1, 8) == 1
    with pytest.raises(ValueError):
        pass_at_k(4, 1, 5)
