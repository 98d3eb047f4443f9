"""The joint loss of a microbatch: policy gradient and meta-experience NLL over the same tokens (MEL Eq. 9-10)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mel_ray.records.update import LossSettings
from mel_ray.rl.kl import kl_estimate
from mel_ray.rl.policy_loss import importance_weights, surrogate


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Aligned per-token inputs of the loss, each [completion tokens of the microbatch].

    `rows` is the row of each token, ascending. `old_logprobs` None: the current ones, detached.
    """

    pg_weight: Tensor
    nll_weight: Tensor
    advantages: Tensor
    sampled_logprobs: Tensor
    rows: Tensor
    old_logprobs: Tensor | None = None
    reference_logprobs: Tensor | None = None


def joint_loss(
    logprobs: Tensor, entropy: Tensor, tokens: TokenBatch, loss: LossSettings
) -> tuple[Tensor, dict[str, Tensor]]:
    """- sum_t [ pg_weight (surrogate - beta kl + c entropy) + nll_weight logp ]: a plain sum, the weights being global.

    `logprobs`, `entropy`: [tokens]. Returns the scalar loss and the detached parts `policy` and `nll` (weighted), `kl`
    (unweighted sum over policy tokens), and `clipped`, the number of clipped tokens. A token with both weights zero
    contributes neither loss nor gradient.
    """
    old = logprobs.detach() if tokens.old_logprobs is None else tokens.old_logprobs
    objective, is_clipped = surrogate(logprobs, old, tokens.advantages, tokens.rows, loss)
    if loss.importance_cap is not None:
        rows = tokens.rows if loss.importance_level == "sequence" else None
        is_masked = loss.importance_mode == "mask"
        objective = objective * importance_weights(old, tokens.sampled_logprobs, loss.importance_cap, rows, is_masked)
    is_policy = tokens.pg_weight > 0
    kl_sum = logprobs.new_zeros(())
    if tokens.reference_logprobs is not None:
        kl = kl_estimate(logprobs, tokens.reference_logprobs, loss.kl_estimator)
        kl_sum = kl.detach()[is_policy].sum()
        if loss.kl_in_loss:
            objective = objective - loss.kl_in_loss * kl
    if loss.entropy_coefficient:
        objective = objective + loss.entropy_coefficient * entropy
    # Weightless tokens are left out by selection: zero times an overflow would be NaN.
    policy = -(tokens.pg_weight[is_policy] * objective[is_policy]).sum()
    nll = -(tokens.nll_weight * logprobs).sum()
    parts = {
        "policy": policy.detach(),
        "nll": nll.detach(),
        "kl": kl_sum,
        "clipped": (is_clipped & is_policy).sum(),
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
