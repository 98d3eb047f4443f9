"""The joint loss of a microbatch: policy gradient and meta-experience NLL over the same tokens (MEL Eq. 9-10)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mel_ray.policy.kl import kl_estimate
from mel_ray.policy.surrogates import importance_weights, surrogate
from mel_ray.records.step import LossSettings


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """A microbatch on the device. `ids`: [rows, width]; `predicts`: bool [rows, width - 1], whether a position's next
    token is trained; the others are aligned, [trained tokens of the microbatch].

    `rows` is the row of each token, ascending. `old_logprobs` None: the current ones, detached.
    """

    ids: Tensor
    predicts: Tensor
    rows: Tensor
    pg_weight: Tensor
    nll_weight: Tensor
    advantages: Tensor
    sampled_logprobs: Tensor
    old_logprobs: Tensor | None = None
    reference_logprobs: Tensor | None = None

    def chosen(self, logprobs: Tensor, which: Tensor) -> "TokenBatch":
        """Some of the tokens alone, without the model's inputs; `logprobs` are the current ones of all tokens."""
        old = logprobs.detach() if self.old_logprobs is None else self.old_logprobs
        return TokenBatch(
            ids=self.ids[:0],
            predicts=self.predicts[:0],
            rows=self.rows[which],
            pg_weight=self.pg_weight[which],
            nll_weight=self.nll_weight[which],
            advantages=self.advantages[which],
            sampled_logprobs=self.sampled_logprobs[which],
            old_logprobs=old[which],
            reference_logprobs=None if self.reference_logprobs is None else self.reference_logprobs[which],
        )


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
    chosen = tokens.chosen(logprobs, is_policy)
    objective, is_clipped, kl_sum = _policy_objective(logprobs[is_policy], entropy[is_policy], chosen, loss)
    policy = -(chosen.pg_weight * objective).sum()
    nll = -(tokens.nll_weight * logprobs).sum()
    parts = {"policy": policy.detach(), "nll": nll.detach(), "kl": kl_sum, "clipped": is_clipped.sum()}
    return policy + nll, parts


def _policy_objective(
    logprobs: Tensor, entropy: Tensor, tokens: TokenBatch, loss: LossSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Objective and whether it is clipped, both [policy tokens], and the sum of the KL estimates."""
    old = logprobs.detach() if tokens.old_logprobs is None else tokens.old_logprobs
    objective, is_clipped = surrogate(logprobs, old, tokens.advantages, tokens.rows, loss)
    if loss.importance_cap is not None:
        rows = tokens.rows if loss.importance_level == "sequence" else None
        is_masked = loss.importance_mode == "mask"
        weights = importance_weights(old, tokens.sampled_logprobs, loss.importance_cap, rows, is_masked)
        objective = objective * weights
    kl_sum = logprobs.new_zeros(())
    if tokens.reference_logprobs is not None:
        kl = kl_estimate(logprobs, tokens.reference_logprobs, loss.kl_estimator)
        kl_sum = kl.detach().sum()
        if loss.kl_coefficient:
            objective = objective - loss.kl_coefficient * kl
    if loss.entropy_coefficient:
        objective = objective + loss.entropy_coefficient * entropy
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
