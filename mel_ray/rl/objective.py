"""The joint loss of a microbatch: policy gradient and meta-experience NLL over the same tokens (MEL Eq. 9-10)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mel_ray.rl.policy_loss import clipped_surrogate, truncated_importance


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Aligned per-token inputs of the loss, each [completion tokens of the microbatch]."""

    pg_weight: Tensor
    nll_weight: Tensor
    advantages: Tensor
    sampled_logprobs: Tensor
    old_logprobs: Tensor | None = None


def joint_loss(
    logprobs: Tensor,
    tokens: TokenBatch,
    clip_low: float,
    clip_high: float,
    importance_cap: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """- sum_t [ pg_weight * surrogate + nll_weight * logp ], a plain sum because the weights are global.

    Returns the scalar loss and the detached parts `policy` and `nll` (weighted), and the `clipped` share's
    numerator. A token with both weights zero contributes neither loss nor gradient.
    """
    old = logprobs.detach() if tokens.old_logprobs is None else tokens.old_logprobs
    surrogate, is_clipped = clipped_surrogate(logprobs, old, tokens.advantages, clip_low, clip_high)
    weight = tokens.pg_weight
    if importance_cap is not None:
        weight = weight * truncated_importance(old, tokens.sampled_logprobs, importance_cap)
    policy = -(weight * surrogate).sum()
    nll = -(tokens.nll_weight * logprobs).sum()
    parts = {
        "policy": policy.detach(),
        "nll": nll.detach(),
        "clipped": (is_clipped & (tokens.pg_weight > 0)).sum(),
    }
    return policy + nll, parts


def mismatch(logprobs: Tensor, sampled_logprobs: Tensor) -> dict[str, Tensor]:
    """How far the engine's logprobs are from the trainer's, over tokens both computed with the same weights.

    `kl` sums the k3 estimate exp(d) - 1 - d of KL(engine || trainer), d = trainer - engine; `max` is max |d|;
    `outside` counts ratios outside [0.8, 1.25].
    """
    delta = (logprobs - sampled_logprobs).detach().float()
    ratio = delta.exp()
    return {
        "kl": (ratio - 1 - delta).sum(),
        "max": delta.abs().max() if delta.numel() else delta.new_zeros(()),
        "outside": torch.logical_or(ratio < 0.8, ratio > 1.25).sum(),
    }
