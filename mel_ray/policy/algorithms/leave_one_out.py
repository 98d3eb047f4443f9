"""Rewards minus the mean of the group's other rewards (RLOO, arXiv 2402.14740)."""

import numpy as np

from mel_ray.policy.algorithms.algorithm import GroupAlgorithm, Rewards, has_contrast, judged, spread
from mel_ray.records.trajectory import Floats


class LeaveOneOut(GroupAlgorithm):
    def advantages(self, rewards: Rewards, eps: float) -> Floats:
        return leave_one_out(rewards)


def leave_one_out(rewards: Rewards) -> Floats:
    """A_i = r_i - mean of the others = G/(G-1) (r_i - mean(r)), [group].

    Failure cases: a group of one has no others and gets zero; equal rewards give zeros.
    """
    is_judged, values = judged(rewards)
    if not has_contrast(values):
        return spread(np.zeros_like(values), is_judged)
    return spread(len(values) / (len(values) - 1) * (values - values.mean()), is_judged)
