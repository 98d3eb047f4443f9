"""Measures an optimizer step while a rank computes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mel_ray.policy.loss import TokenBatch, guided_ratios, mismatch
from mel_ray.policy.model import Microbatch
from mel_ray.policy.statistics import OLDEST, Max, Measure, StepMeasures, Sum
from mel_ray.records.step import TrainSettings
from mel_ray.records.trajectory import Floats

KEPT_RATIOS = 8192  # per optimizer step and rank, and of one staleness, for quantiles


@dataclass(slots=True)
class StepRecorder:
    """Adds up over the microbatches of one rank; all tensors are detached.

    `is_first`: no optimizer step has moved the policy since the update began. `log_ratios`: of pi to the denominator,
    a tensor for each microbatch. `by_staleness`: of the policy before the update to the one that sampled, alike.
    """

    settings: TrainSettings
    is_first: bool = True
    measures: dict[str, Measure] = field(default_factory=dict)
    log_ratios: list[Tensor] = field(default_factory=list)
    by_staleness: dict[int, list[Tensor]] = field(default_factory=dict)

    def add(
        self, tokens: TokenBatch, logprobs: Tensor, entropy: Tensor, parts: Mapping[str, Tensor], microbatch: Microbatch
    ) -> None:
        is_policy, is_lesson = tokens.pg_weight > 0, tokens.nll_weight > 0
        denominator = tokens.denominator(logprobs, self.settings.loss)
        self.log_ratios.append((logprobs - denominator)[is_policy].float().cpu())
        self._add(
            {
                "policy_loss": parts["policy"],
                "nll_loss": parts["nll"],
                "reference_kl": parts["kl"],
                "clipped": parts["clipped"].sum(),
                "entropy": entropy[is_policy].sum(),
                "policy_tokens": is_policy.sum(),
                "lesson_nll": -logprobs[is_lesson].sum(),
                "lesson_tokens": is_lesson.sum(),
                "tokens": sum(len(sequence.token_ids) for sequence in microbatch),
                "padded_tokens": tokens.ids.numel(),
            }
        )
        before = tokens.before_update(logprobs)[is_policy]
        is_known = self.is_first or tokens.old_logprobs is not None
        staleness = self._staleness(tokens)[is_policy]
        sampled, is_guided = tokens.sampled_logprobs[is_policy], tokens.is_guided[is_policy]
        self._compare(before, sampled, (staleness == 0) & is_known & ~is_guided & ~sampled.isnan())
        if tokens.guided is not None:
            self._weigh_guidance(guided_ratios(before[is_guided], sampled[is_guided]))
        if self.settings.version is not None:
            self._split(staleness, parts, before - sampled if is_known else None, is_guided)

    def _staleness(self, tokens: TokenBatch) -> Tensor:
        """By how many versions the policy is newer than the weights that sampled a token, [tokens]."""
        if self.settings.version is None or tokens.versions is None:
            return torch.zeros_like(tokens.rows)
        return self.settings.version - tokens.versions

    def _compare(self, before: Tensor, sampled: Tensor, is_comparable: Tensor) -> None:
        """Engine and trainer, on tokens for which both had the same weights."""
        found = mismatch(before[is_comparable], sampled[is_comparable])
        self._add(
            {"compared": is_comparable.sum(), "mismatch_kl": found["kl"], "mismatch_outside": found["outside"]},
        )
        self._merge("mismatch", Max(float(found["max"])))

    def _weigh_guidance(self, ratios: Tensor) -> None:
        """How far the bare policy is from the guided one; measured whether or not it is corrected."""
        if not ratios.numel():
            return
        is_above = ratios > self.settings.loss.guided_cap
        self._add(
            {
                "guided_tokens": ratios.numel(),
                "guided_ratio": ratios.sum(),
                "guided_squared_ratio": ratios.square().sum(),
                "guided_above": is_above.sum(),
            }
        )
        self._merge("guided_max", Max(float(ratios.max())))

    def _split(
        self, staleness: Tensor, parts: Mapping[str, Tensor], log_ratios: Tensor | None, is_guided: Tensor
    ) -> None:
        """What is measured by staleness."""
        if not staleness.numel():
            return
        self._add({"staleness": staleness.sum()})
        self._merge("oldest", Max(float(staleness.max())))
        if self.settings.loss.importance_cap is not None:
            self._add({"outside": parts["outside"].sum()})
        levels = staleness.clamp(max=OLDEST)
        for level in levels.unique().tolist():
            is_own = levels == level
            self._add({f"tokens/{level}": is_own.sum(), f"clipped/{level}": parts["clipped"][is_own].sum()})
            if log_ratios is not None:
                self.by_staleness.setdefault(level, []).append(log_ratios[is_own & ~is_guided].float().cpu())

    def _add(self, values: Mapping[str, Tensor | int]) -> None:
        for name, value in values.items():
            self._merge(name, Sum(float(value)))

    def _merge(self, name: str, measure: Measure) -> None:
        known = self.measures.get(name)
        self.measures[name] = measure if known is None else known.merged([measure])

    def result(self) -> StepMeasures:
        by_staleness = {level: _some(ratios) for level, ratios in self.by_staleness.items()}
        return StepMeasures(self.measures, _some(self.log_ratios), by_staleness)


def _some(log_ratios: Sequence[Tensor]) -> Floats:
    """At most KEPT_RATIOS of them, evenly spread."""
    joined = torch.cat([torch.zeros(0), *log_ratios])
    return joined[:: -(-joined.numel() // KEPT_RATIOS) or 1].numpy().astype(np.float32)
