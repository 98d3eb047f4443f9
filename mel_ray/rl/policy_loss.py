"""The clipped surrogate and the correction for the engine's own numerics; every tensor is [tokens]."""

import torch
from torch import Tensor


def clipped_surrogate(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) with rho = exp(logp - old logp) (MEL Eq. 10).

    Returns the objective (to be maximised) and whether the clip took the gradient away. With one optimizer
    step per batch `old_logprobs` is `logprobs.detach()`: rho is 1 and the gradient is A * grad logp.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    plain = ratio * advantages
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages
    return torch.minimum(plain, clipped), (clipped < plain).detach()


def truncated_importance(old_logprobs: Tensor, sampled_logprobs: Tensor, cap: float) -> Tensor:
    """min(pi_old / pi_engine, cap), detached: corrects for engine and trainer disagreeing on logprobs."""
    return torch.exp(old_logprobs - sampled_logprobs).clamp(max=cap).detach()
