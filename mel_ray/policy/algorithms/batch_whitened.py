"""Returns whitened over all tokens of the batch (REINFORCE++, arXiv 2501.03262), optionally after subtracting the
group's mean reward."""

from collections.abc import Sequence

import numpy as np

from mel_ray.policy.algorithms.algorithm import (
    Algorithm,
    Groups,
    Options,
    Penalties,
    Rewards,
    has_contrast,
    judged,
    spread,
)
from mel_ray.policy.algorithms.group_centred import group_centred
from mel_ray.records.row import Credit, Row
from mel_ray.records.trajectory import Floats


class BatchWhitened(Algorithm):
    """`has_baseline`: take the group's mean reward from each reward first."""

    needs_batch = True

    def __init__(self, has_baseline: bool = False) -> None:
        self._has_baseline = self.needs_group = has_baseline

    def credit(self, groups: Groups, options: Options, penalties: Penalties) -> list[list[Credit]]:
        rows = [row for group in groups for row in group]
        rewards: list[float | None] = [reward for group in groups for reward in self._rewards(group)]
        credit: Sequence[Credit]
        if penalties:
            credit = whitened_returns(rewards, [penalties[row.sample] for row in rows], options.advantage_eps)
        else:
            credit = batch_whitened(rewards, [row.trained_tokens for row in rows], options.advantage_eps).tolist()
        values = iter(credit)
        return [[next(values) for _ in group] for group in groups]

    def _rewards(self, group: Sequence[Row]) -> list[float | None]:
        rewards = [row.reward for row in group]
        if not self._has_baseline:
            return rewards
        centred = group_centred(rewards).tolist()
        return [None if reward is None else value for reward, value in zip(rewards, centred, strict=True)]


def token_moments(values: Sequence[float], lengths: Sequence[int]) -> tuple[float, float]:
    """Mean and standard deviation (no Bessel) over the tokens of a batch whose trajectory i has `lengths[i]` tokens of
    value `values[i]`; (0, 0) for no tokens."""
    if not values or not sum(lengths):
        return 0.0, 0.0
    weights = np.asarray(lengths, dtype=np.float64) / sum(lengths)
    array = np.asarray(values, dtype=np.float64)
    mean = float((weights * array).sum())
    return mean, float(np.sqrt((weights * (array - mean) ** 2).sum()))


def batch_whitened(rewards: Rewards, lengths: Sequence[int], eps: float = 1e-6) -> Floats:
    """A_i = (r_i - mean) / (std + eps), mean and std over all tokens of the global batch.

    `rewards`, `lengths`: [batch], lengths in trained tokens.

    Failure case: a batch of equal rewards gives zeros. A group that is all right is not without signal here: it
    stands above the batch.
    """
    is_judged, values = judged(rewards)
    if not has_contrast(values):
        return spread(np.zeros_like(values), is_judged)
    mean, std = token_moments(values.tolist(), [n for n, kept in zip(lengths, is_judged, strict=True) if kept])
    return spread((values - mean) / (std + eps), is_judged)


def whitened_returns(rewards: Rewards, penalties: Sequence[Floats], eps: float) -> list[Credit]:
    """(R_t - mean) / (std + eps) with the return R_t = r - penalty to go at token t, which differs from token to token.

    Failure case: where no trajectory could be judged, all credit is zero.
    """
    returns = [
        None if r is None else r - penalty.astype(np.float64) for r, penalty in zip(rewards, penalties, strict=True)
    ]
    tokens = np.concatenate([[], *(one for one in returns if one is not None)])
    if not len(tokens):
        return [0.0 for _ in returns]
    mean, scale = tokens.mean(), tokens.std() + eps
    return [0.0 if one is None else ((one - mean) / scale).astype(np.float32) for one in returns]
