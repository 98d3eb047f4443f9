"""The joint loss of a microbatch: policy gradient and meta-experience NLL over the same tokens (MEL Eq. 9-10)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mel_ray.records.update import LossSettings
from mel_ray.policy.kl import kl_estimate
from mel_ray.policy.surrogates import importance_weights, surrogate


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
    is_policy = tokens.pg_weight > 0
    # Weightless tokens are left out before anything is computed: zero times an overflow would be NaN.
    chosen = _Chosen.of(logprobs, entropy, tokens, is_policy)
    objective, is_clipped, kl_sum = _policy_objective(chosen, loss)
    policy = -(tokens.pg_weight[is_policy] * objective).sum()
    nll = -(tokens.nll_weight * logprobs).sum()
    parts = {"policy": policy.detach(), "nll": nll.detach(), "kl": kl_sum, "clipped": is_clipped.sum()}
    return policy + nll, parts


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The policy tokens alone."""

    logprobs: Tensor
    entropy: Tensor
    old: Tensor
    sampled: Tensor
    reference: Tensor | None
    advantages: Tensor
    rows: Tensor

    @classmethod
    def of(cls, logprobs: Tensor, entropy: Tensor, tokens: TokenBatch, chosen: Tensor) -> "_Chosen":
        own = logprobs[chosen]
        return cls(
            logprobs=own,
            entropy=entropy[chosen],
            old=own.detach() if tokens.old_logprobs is None else tokens.old_logprobs[chosen],
            sampled=tokens.sampled_logprobs[chosen],
            reference=None if tokens.reference_logprobs is None else tokens.reference_logprobs[chosen],
            advantages=tokens.advantages[chosen],
            rows=tokens.rows[chosen],
        )


def _policy_objective(tokens: _Chosen, loss: LossSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Objective and whether it is clipped, both [policy tokens], and the sum of the KL estimates."""
    objective, is_clipped = surrogate(tokens.logprobs, tokens.old, tokens.advantages, tokens.rows, loss)
    if loss.importance_cap is not None:
        rows = tokens.rows if loss.importance_level == "sequence" else None
        is_masked = loss.importance_mode == "mask"
        objective = objective * importance_weights(tokens.old, tokens.sampled, loss.importance_cap, rows, is_masked)
    kl_sum = tokens.logprobs.new_zeros(())
    if tokens.reference is not None:
        kl = kl_estimate(tokens.logprobs, tokens.reference, loss.kl_estimator)
        kl_sum = kl.detach().sum()
        if loss.kl_in_loss:
            objective = objective - loss.kl_in_loss * kl
    if loss.entropy_coefficient:
        objective = objective + loss.entropy_coefficient * tokens.entropy
    return objective, is_clipped, kl_sum


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
