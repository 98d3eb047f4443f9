"""rl/advantages.py and rl/aggregation.py, against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mel_ray.rl.advantages import group_standardised
from mel_ray.rl.aggregation import token_weights
from mel_ray.rl.pass_at_k import pass_at_k


def test_golden_numbers_of_grpo():
    # mean 1/2; Bessel std = sqrt(4 * (1/4) / 3) = 0.5773503; 0.5 / (0.5773503 + 1e-6) = 0.8660239
    assert group_standardised([1, 0, 0, 1], 1e-6) == pytest.approx(
        [0.8660239, -0.8660239, -0.8660239, 0.8660239], abs=1e-7
    )


@pytest.mark.parametrize("rewards", [[1.0], [0.0, 0.0, 0.0], [1.0, 1.0], [], [None, 1.0], [None, None]])
def test_no_contrast_means_no_signal(rewards):
    advantages = group_standardised(rewards)
    assert len(advantages) == len(rewards)
    assert not advantages.any()


def test_unjudged_trajectories_take_no_part():
    with_failures = group_standardised([1.0, None, 0.0, None, 0.0, 1.0])
    assert with_failures[[1, 3]] == pytest.approx([0, 0])
    assert with_failures[[0, 2, 4, 5]] == pytest.approx(group_standardised([1.0, 0.0, 0.0, 1.0]))


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=64))
def test_advantages_sum_to_zero_and_order_as_rewards(rewards):
    advantages = group_standardised(rewards)
    assert np.isfinite(advantages).all()
    assert abs(advantages.sum()) < 1e-3
    for reward, advantage in zip(rewards, advantages, strict=True):
        assert advantage == 0 or (advantage > 0) == (reward == 1.0)


def aggregate(losses: list[list[float]], aggregation: str) -> float:
    weights = token_weights([len(one) for one in losses], aggregation, max_tokens=8)
    return sum(weight * sum(one) for weight, one in zip(weights, losses, strict=True))


def test_golden_numbers_of_aggregation():
    losses = [[1.0, 3.0], [1.0, 1.0, 1.0, 1.0]]
    assert aggregate(losses, "token_mean") == pytest.approx(8 / 6)  # all tokens alike
    assert aggregate(losses, "seq_mean_token_mean") == pytest.approx(1.5)  # (2 + 1) / 2
    assert aggregate(losses, "seq_mean_token_sum") == pytest.approx(4.0)  # (4 + 4) / 2
    assert aggregate(losses, "constant_length") == pytest.approx(0.5)  # (4 + 4) / (2 * 8)


def test_pass_at_k():
    assert pass_at_k(8, 2, 4) == pytest.approx(0.7857143)  # 1 - C(6,4)/C(8,4) = 1 - 15/70
    assert pass_at_k(8, 0, 8) == 0
    assert pass_at_k(8, 1, 8) == 1
    with pytest.raises(ValueError):
        pass_at_k(4, 1, 5)
