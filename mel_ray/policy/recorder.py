"""Measures an optimizer step while a rank computes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mel_ray.policy.loss import TokenBatch, mismatch
from mel_ray.policy.model import Microbatch
from mel_ray.policy.statistics import Max, Measure, StepMeasures, Sum

KEPT_RATIOS = 8192  # per optimizer step and rank, for quantiles


@dataclass(slots=True)
class StepRecorder:
    """Adds up over the microbatches of one rank; all tensors are detached."""

    measures: dict[str, Measure] = field(default_factory=dict)
    log_ratios: list[Tensor] = field(default_factory=list)

    def add(
        self, tokens: TokenBatch, logprobs: Tensor, entropy: Tensor, parts: Mapping[str, Tensor], microbatch: Microbatch
    ) -> None:
        is_policy, is_lesson = tokens.pg_weight > 0, tokens.nll_weight > 0
        old = logprobs if tokens.old_logprobs is None else tokens.old_logprobs
        differences = mismatch(old[is_policy], tokens.sampled_logprobs[is_policy])
        self.log_ratios.append((logprobs - old)[is_policy].float().cpu())
        found = {
            "policy_loss": parts["policy"],
            "nll_loss": parts["nll"],
            "reference_kl": parts["kl"],
            "clipped": parts["clipped"],
            "entropy": entropy[is_policy].sum(),
            "mismatch_kl": differences["kl"],
            "mismatch_outside": differences["outside"],
            "policy_tokens": is_policy.sum(),
            "lesson_nll": -logprobs[is_lesson].sum(),
            "lesson_tokens": is_lesson.sum(),
            "tokens": sum(len(sequence.token_ids) for sequence in microbatch),
            "padded_tokens": tokens.ids.numel(),
        }
        for name, value in found.items():
            self._merge(name, Sum(float(value)))
        self._merge("mismatch", Max(float(differences["max"])))

    def _merge(self, name: str, measure: Measure) -> None:
        known = self.measures.get(name)
        self.measures[name] = measure if known is None else known.merged([measure])

    def result(self) -> StepMeasures:
        ratios = torch.cat(self.log_ratios) if self.log_ratios else torch.zeros(0)
        stride = -(-ratios.numel() // KEPT_RATIOS) or 1
        return StepMeasures(self.measures, ratios[::stride].numpy().astype(np.float32))
