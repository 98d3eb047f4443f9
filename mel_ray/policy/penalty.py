"""A KL penalty as part of the reward or the return, from the logprobs that a scoring pass found."""

import numpy as np

from mel_ray.records.arrays import Floats
from mel_ray.records.step import KlEstimator


def kl_penalty_to_go(logprobs: Floats, reference: Floats, estimator: KlEstimator, coefficient: float) -> Floats:
    """coefficient * K_t, K_t being the sum of the KL estimates at tokens s >= t; all arrays are [trained tokens].

    The estimators are those of `policy/kl.py`. The first entry is the penalty of the whole trajectory.
    """
    difference = logprobs - reference
    match estimator:
        case "k1":
            kl = difference
        case "k2":
            kl = 0.5 * difference**2
        case "k3":
            kl = np.exp(-difference) - 1.0 + difference
    return (coefficient * np.cumsum(kl[::-1], dtype=np.float32)[::-1]).astype(np.float32)
