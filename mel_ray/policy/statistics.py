"""What is measured while an optimizer step is computed, and the reference values its loss needs."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from mel_ray.policy.model import Microbatch, Tensors
from mel_ray.records.update import LossSettings, RankSums
from mel_ray.policy.kl import kl_estimate, kl_to_go
from mel_ray.policy.loss import TokenBatch, mismatch

KEPT_RATIOS = 8192  # per optimizer step and rank, for quantiles


def with_references(
    tensors: Tensors, old: Tensor | None, reference: Tensor | None, current: Tensor, loss: LossSettings
) -> TokenBatch:
    """The loss's inputs with the ratio's denominator, the reference policy, and the KL penalty of the reward in
    place."""
    tokens = replace(tensors.tokens, old_logprobs=old, reference_logprobs=reference)
    if reference is None or not tensors.kl_scale.any():
        return tokens
    kl = kl_estimate(current if old is None else old, reference, loss.kl_estimator)
    return replace(tokens, advantages=tokens.advantages - tensors.kl_scale * kl_to_go(kl, tokens.rows))


@dataclass(slots=True)
class StepStatistics:
    """Sums over the microbatches of one rank; all tensors are detached."""

    sums: dict[str, float] = field(default_factory=dict)
    log_ratios: list[Tensor] = field(default_factory=list)

    def add(
        self,
        tokens: TokenBatch,
        logprobs: Tensor,
        entropy: Tensor,
        parts: dict[str, Tensor],
        microbatch: Microbatch,
        padded: int,
    ) -> None:
        is_policy, is_lesson = tokens.pg_weight > 0, tokens.nll_weight > 0
        old = logprobs if tokens.old_logprobs is None else tokens.old_logprobs
        differences = mismatch(old[is_policy], tokens.sampled_logprobs[is_policy])
        ratios = (logprobs - old)[is_policy]
        self.log_ratios.append(ratios.float().cpu())
        found = {
            "policy_loss_sum": parts["policy"],
            "nll_loss_sum": parts["nll"],
            "reference_kl_sum": parts["kl"],
            "clipped_sum": parts["clipped"],
            "entropy_sum": entropy[is_policy].sum(),
            "mismatch_kl_sum": differences["kl"],
            "mismatch_outside_sum": differences["outside"],
            "policy_tokens": is_policy.sum(),
            "lesson_nll_sum": -logprobs[is_lesson].sum(),
            "lesson_tokens": is_lesson.sum(),
            "tokens": sum(len(sequence.token_ids) for sequence in microbatch),
            "padded_tokens": padded,
        }
        for name, value in found.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.sums["mismatch_max"] = max(self.sums.get("mismatch_max", 0.0), float(differences["max"]))

    def result(self) -> RankSums:
        ratios = torch.cat(self.log_ratios) if self.log_ratios else torch.zeros(0)
        stride = -(-ratios.numel() // KEPT_RATIOS) or 1
        return RankSums(self.sums, ratios[::stride].numpy().astype(np.float32))
