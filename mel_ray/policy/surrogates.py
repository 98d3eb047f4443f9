"""Surrogate objectives (to be maximised) and importance corrections; every tensor is [tokens].

`rows` names the row of the microbatch a token belongs to, for what is defined per sequence; a sequence never spans
two microbatches.
"""

import torch
from torch import Tensor

from mel_ray.records.step import LossSettings


def log_ratio(logprobs: Tensor, old_logprobs: Tensor, clamp: float | None = None) -> Tensor:
    """log rho = logp - old logp, held within [-clamp, clamp] (verl: 20), which takes the gradient away outside."""
    difference = logprobs - old_logprobs
    return difference if clamp is None else difference.clamp(-clamp, clamp)


def row_means(values: Tensor, rows: Tensor) -> Tensor:
    """Mean over the tokens of a token's row, at each of its tokens."""
    count = int(rows.max()) + 1 if rows.numel() else 0
    sums = values.new_zeros(count).index_add(0, rows, values)
    sizes = values.new_zeros(count).index_add(0, rows, torch.ones_like(values))
    return (sums / sizes)[rows]


def sequence_ratio(log_ratios: Tensor, rows: Tensor) -> Tensor:
    """s = exp(mean of log rho over the sequence), at each of its tokens (GSPO, arXiv 2507.18071).

    Failure case: one token with a huge ratio moves the whole sequence out of the clip range.
    """
    return row_means(log_ratios, rows).exp()


def clipped(ratio: Tensor, advantages: Tensor, low: float, high: float, dual: float | None = None) -> Tensor:
    """min(rho A, clip(rho, 1 - low, 1 + high) A) (PPO, arXiv 1707.06347; MEL Eq. 10).

    `dual` c > 1 bounds what a negative advantage can cost: max(that, c A) where A < 0 (dual clip, arXiv 1912.09729).
    Failure case: without `dual`, a negative advantage with a large ratio has an unbounded gradient.
    """
    objective = torch.minimum(ratio * advantages, ratio.clamp(1.0 - low, 1.0 + high) * advantages)
    if dual is None:
        return objective
    return torch.where(advantages < 0, torch.maximum(objective, dual * advantages), objective)


def cispo(ratio: Tensor, logprobs: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """sg(clip(rho, 1 - low, 1 + high)) A logp: weights are clipped, no token's gradient is dropped (CISPO, arXiv
    2506.13585).

    The paper leaves the lower side open: `low` = 1. Failure case: off policy, a stale token keeps a weight of up to
    1 + high for as long as it is trained on.
    """
    return ratio.clamp(1.0 - low, 1.0 + high).detach() * advantages * logprobs


def surrogate(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, rows: Tensor, loss: LossSettings
) -> tuple[Tensor, Tensor]:
    """The objective of each token and whether clipping took its gradient away (for CISPO: bounded its weight).

    - clipped: `clipped` on token ratios (GRPO, DAPO, REINFORCE++, ...)
    - sequence_clipped: `clipped` on `sequence_ratio` (GSPO)
    - cispo: `cispo`
    - logprob: A logp, no ratio: the plain score function, NLL where A = 1 (RFT)

    With one optimizer step per batch `old_logprobs` is `logprobs.detach()`: every ratio is 1, and the gradient
    of each is A * grad logp.
    """
    if loss.surrogate == "logprob":
        return advantages * logprobs, torch.zeros_like(logprobs, dtype=torch.bool)
    difference = log_ratio(logprobs, old_logprobs, loss.log_ratio_clamp)
    ratio = sequence_ratio(difference, rows) if loss.surrogate == "sequence_clipped" else difference.exp()
    is_outside = (ratio < 1.0 - loss.clip_low) | (ratio > 1.0 + loss.clip_high)
    if loss.surrogate == "cispo":
        return cispo(ratio, logprobs, advantages, loss.clip_low, loss.clip_high), is_outside
    objective = clipped(ratio, advantages, loss.clip_low, loss.clip_high, loss.dual_clip)
    return objective, (objective != ratio * advantages).detach()


def importance_weights(
    old_logprobs: Tensor, sampled_logprobs: Tensor, cap: float, rows: Tensor | None = None, is_masked: bool = False
) -> Tensor:
    """pi_old / pi_engine, detached: corrects for engine and trainer disagreeing on logprobs.

    Per token, or with `rows` of the whole sequence: the product of its tokens' ratios. Above `cap` it is held there
    (truncated importance sampling) or, `is_masked`, set to zero. Failure case: a sequence's ratio leaves any range with
    its length; watch `mismatch/kl`.
    """
    difference = old_logprobs - sampled_logprobs
    if rows is not None:
        count = int(rows.max()) + 1 if rows.numel() else 0
        difference = difference.new_zeros(count).index_add(0, rows, difference)[rows]
    ratio = difference.exp().detach()
    return ratio.masked_fill(ratio > cap, 0.0) if is_masked else ratio.clamp(max=cap)
