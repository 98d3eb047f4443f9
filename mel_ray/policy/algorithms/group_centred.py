"""Rewards minus the mean of their group, not divided by the spread (Dr. GRPO, arXiv 2503.20783)."""

import numpy as np

from mel_ray.policy.algorithms.algorithm import GroupAlgorithm, Rewards, has_contrast, judged, spread
from mel_ray.records.trajectory import Floats


class GroupCentred(GroupAlgorithm):
    def advantages(self, rewards: Rewards, eps: float) -> Floats:
        return group_centred(rewards)


def group_centred(rewards: Rewards) -> Floats:
    """A_i = r_i - mean(r), [group].

    Failure cases: a group of one, or equal rewards, give zeros.
    """
    is_judged, values = judged(rewards)
    return spread(values - values.mean() if has_contrast(values) else np.zeros_like(values), is_judged)
