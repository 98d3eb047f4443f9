"""Advantages of a group of rewards."""

from collections.abc import Sequence

import numpy as np

from mel_ray.records.arrays import Floats


def group_standardised(rewards: Sequence[float | None], eps: float = 1e-6) -> Floats:
    """A_i = (r_i - mean(r)) / (std(r) + eps), std with Bessel's correction (GRPO, arXiv 2402.03300; MEL Eq. 10).

    `rewards`: [group]; None marks a trajectory the verifier could not judge: it is left out of mean and std
    and gets advantage 0. Returns float32 [group].

    Failure cases: fewer than two judged trajectories, or all rewards equal, give zeros: no signal.
    """
    judged = np.array([reward is not None for reward in rewards], dtype=bool)
    values = np.array([reward for reward in rewards if reward is not None], dtype=np.float64)
    advantages = np.zeros(len(rewards), dtype=np.float64)
    if len(values) >= 2 and values.min() < values.max():
        advantages[judged] = (values - values.mean()) / (values.std(ddof=1) + eps)
    return advantages.astype(np.float32)
