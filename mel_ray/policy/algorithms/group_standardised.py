"""Rewards standardised within their group (GRPO, arXiv 2402.03300; MEL Eq. 10)."""

import numpy as np

from mel_ray.policy.algorithms.algorithm import GroupAlgorithm, Rewards, has_contrast, judged, spread
from mel_ray.records.trajectory import Floats


class GroupStandardised(GroupAlgorithm):
    def advantages(self, rewards: Rewards, eps: float) -> Floats:
        return group_standardised(rewards, eps)


def group_standardised(rewards: Rewards, eps: float = 1e-6) -> Floats:
    """A_i = (r_i - mean(r)) / (std(r) + eps), std with Bessel's correction, [group].

    Failure cases: a group of one, or equal rewards, give zeros. With rewards nearly equal (a length penalty, say) the
    division blows small differences up to full size.
    """
    is_judged, values = judged(rewards)
    if not has_contrast(values):
        return spread(np.zeros_like(values), is_judged)
    return spread((values - values.mean()) / (values.std(ddof=1) + eps), is_judged)
