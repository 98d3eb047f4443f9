"""policy/algorithms/, aggregations and KL estimators, against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mel_ray.policy.algorithms.batch_whitened import batch_whitened, token_moments
from mel_ray.policy.algorithms.group_centred import group_centred
from mel_ray.policy.algorithms.group_standardised import group_standardised
from mel_ray.policy.algorithms.leave_one_out import leave_one_out
from mel_ray.policy.loss import kl_estimate
from mel_ray.policy.registry import AGGREGATIONS, ALGORITHMS
from mel_ray.policy.rows import rows_of, score
from tests.unit.builders import exploration, small_config, with_options

GROUP_ESTIMATORS = [group_standardised, group_centred, leave_one_out]
REWARDS = st.lists(st.sampled_from([0.0, 1.0, 0.5, None]), max_size=64)


def test_golden_numbers_of_grpo():
    # mean 1/2; Bessel std = sqrt(4 * (1/4) / 3) = 0.5773503; 0.5 / (0.5773503 + 1e-6) = 0.8660239
    assert group_standardised([1, 0, 0, 1], 1e-6) == pytest.approx(
        [0.8660239, -0.8660239, -0.8660239, 0.8660239], abs=1e-7
    )


def test_golden_numbers_of_dr_grpo_and_rloo():
    assert group_centred([1, 0, 0, 1]) == pytest.approx([0.5, -0.5, -0.5, 0.5])
    # the others' mean: 1/3 for a correct one, 2/3 for a wrong one
    assert leave_one_out([1, 0, 0, 1]) == pytest.approx([0.6666667, -0.6666667, -0.6666667, 0.6666667], abs=1e-7)
    assert leave_one_out([1, 0, 0, 0]) == pytest.approx([1.0, -1 / 3, -1 / 3, -1 / 3])


def test_golden_numbers_of_reinforce_pp():
    # tokens: two of reward 1, six of reward 0; mean 1/4, variance 1/4 * 3/4 = 3/16, std 0.4330127
    whitened = batch_whitened([1, 0], [2, 6], eps=0.0)
    assert whitened == pytest.approx([0.75 / 0.4330127, -0.25 / 0.4330127], abs=1e-6)
    assert token_moments([1, 0], [2, 6]) == pytest.approx((0.25, 0.4330127))


def test_whitening_sees_the_batch_where_group_estimators_see_the_group():
    # a group that is all right and one that is all wrong: no contrast within, much between
    assert not group_standardised([1, 1]).any()
    assert batch_whitened([1, 1, 0, 0], [3, 3, 3, 3]) == pytest.approx([1, 1, -1, -1], abs=1e-5)


def credit(letters, advantage):
    cfg = with_options(small_config(), algorithm__advantage=advantage).algorithm
    return [row.credit for row in score(rows_of([exploration((2,) * len(letters), letters)]), cfg, 8)]


def test_rejection_sampling_has_signal_without_contrast():
    assert credit("cc", "correct_only") == [1, 1]
    assert credit("wwnte", "correct_only") == [0] * 5


@pytest.mark.parametrize("advantage", ALGORITHMS)
def test_what_the_verifier_could_not_judge_has_no_credit(advantage):
    found = credit("ctewc", advantage)
    assert found[1:3] == [0, 0]
    assert [found[0], found[3], found[4]] == pytest.approx(credit("cwc", advantage))


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
    weights = AGGREGATIONS[aggregation]([len(one) for one in losses], 8)
    return sum(weight * sum(one) for weight, one in zip(weights, losses, strict=True))


def test_golden_numbers_of_aggregation():
    losses = [[1.0, 3.0], [1.0, 1.0, 1.0, 1.0]]
    assert aggregate(losses, "token_mean") == pytest.approx(8 / 6)  # every token the same
    assert aggregate(losses, "seq_mean_token_mean") == pytest.approx(1.5)  # (2 + 1) / 2
    assert aggregate(losses, "seq_mean_token_sum") == pytest.approx(4.0)  # (4 + 4) / 2
    assert aggregate(losses, "dr_grpo") == pytest.approx(0.5)  # (4 + 4) / (2 * 8)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_sequences_without_tokens_count_but_never_divide_by_zero(aggregation):
    assert AGGREGATIONS[aggregation]([], 8) == []
    assert all(np.isfinite(AGGREGATIONS[aggregation]([0, 0], 8)))
    assert AGGREGATIONS["seq_mean_token_mean"]([0, 4], 8)[1] == 1 / (2 * 4)


def test_golden_numbers_of_kl():
    d = torch.tensor([-3.0, 0.0, 0.5], dtype=torch.float64)
    zero = torch.zeros(3, dtype=torch.float64)
    assert kl_estimate(d, zero, "k1").tolist() == [-3.0, 0.0, 0.5]
    assert kl_estimate(d, zero, "k2").tolist() == [4.5, 0.0, 0.125]
    # exp(3) - 1 - 3 = 16.0855; exp(-0.5) - 1 + 0.5 = 0.1065
    assert kl_estimate(d, zero, "k3").tolist() == pytest.approx([16.08554, 0.0, math.exp(-0.5) - 0.5], abs=1e-5)
