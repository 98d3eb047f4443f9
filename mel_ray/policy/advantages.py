"""Advantage estimators: short pure functions from rewards to advantages.

Throughout, `rewards` is [group] or [batch] and may hold None for a trajectory the verifier could not judge: it
takes part in no mean and gets advantage 0. All return float32 arrays of the input's length; an advantage holds
for every token of its trajectory. Equal rewards give exactly zero, never rounding noise: no signal.
"""

from collections.abc import Sequence

import numpy as np

from mel_ray.records.arrays import Floats

Rewards = Sequence[float | None]


def _judged(rewards: Rewards) -> tuple[np.ndarray, np.ndarray]:
    judged = np.array([reward is not None for reward in rewards], dtype=bool)
    return judged, np.array([reward for reward in rewards if reward is not None], dtype=np.float64)


def _spread(values: np.ndarray, judged: np.ndarray) -> Floats:
    advantages = np.zeros(len(judged), dtype=np.float64)
    advantages[judged] = values
    return advantages.astype(np.float32)


def _has_contrast(values: np.ndarray) -> bool:
    return len(values) >= 2 and bool(values.min() < values.max())


def group_standardised(rewards: Rewards, eps: float = 1e-6) -> Floats:
    """A_i = (r_i - mean(r)) / (std(r) + eps), std with Bessel's correction (GRPO, arXiv 2402.03300; MEL Eq. 10).

    Failure cases: a group of one, or equal rewards, give zeros. With rewards nearly equal (a length penalty, say) the
    division blows small differences up to full size.
    """
    judged, values = _judged(rewards)
    if not _has_contrast(values):
        return _spread(np.zeros_like(values), judged)
    return _spread((values - values.mean()) / (values.std(ddof=1) + eps), judged)


def group_centred(rewards: Rewards) -> Floats:
    """A_i = r_i - mean(r): no division by the spread (Dr. GRPO, arXiv 2503.20783).

    Failure cases: a group of one, or equal rewards, give zeros.
    """
    judged, values = _judged(rewards)
    return _spread(values - values.mean() if _has_contrast(values) else np.zeros_like(values), judged)


def leave_one_out(rewards: Rewards) -> Floats:
    """A_i = r_i - mean of the others = G/(G-1) (r_i - mean(r)) (RLOO, arXiv 2402.14740).

    Failure cases: a group of one has no others and gets zero; equal rewards give zeros.
    """
    judged, values = _judged(rewards)
    if not _has_contrast(values):
        return _spread(np.zeros_like(values), judged)
    return _spread(len(values) / (len(values) - 1) * (values - values.mean()), judged)


def correct_only(is_correct: Sequence[bool]) -> Floats:
    """A_i = 1 for a correct trajectory, else 0: with the `logprob` surrogate, rejection-sampling fine-tuning
    (RFT, arXiv 2308.01825).

    Failure case: all wrong gives zeros, all right gives ones: there is signal without contrast.
    """
    return np.asarray(is_correct, dtype=np.float32)


def token_moments(values: Sequence[float], lengths: Sequence[int]) -> tuple[float, float]:
    """Mean and standard deviation (no Bessel) over the tokens of a batch whose trajectory i has `lengths[i]` tokens of
    value `values[i]`; (0, 0) for no tokens."""
    if not values:
        return 0.0, 0.0
    weights = np.asarray(lengths, dtype=np.float64) / sum(lengths)
    array = np.asarray(values, dtype=np.float64)
    mean = float((weights * array).sum())
    return mean, float(np.sqrt((weights * (array - mean) ** 2).sum()))


def batch_whitened(rewards: Rewards, lengths: Sequence[int], eps: float = 1e-6) -> Floats:
    """A_i = (r_i - mean) / (std + eps), mean and std over all tokens of the global batch (REINFORCE++, arXiv
    2501.03262).

    `rewards`, `lengths`: [batch], lengths in tokens. For `reinforce_pp_baseline` pass rewards from which the
    mean of their group was taken.

    Failure case: a batch of equal rewards gives zeros. A group that is all right is not without signal here: it
    stands above the batch.
    """
    judged, values = _judged(rewards)
    if not _has_contrast(values):
        return _spread(np.zeros_like(values), judged)
    mean, std = token_moments(values.tolist(), [n for n, is_judged in zip(lengths, judged, strict=True) if is_judged])
    return _spread((values - mean) / (std + eps), judged)
