"""What a rank measures in an optimizer step, and the metrics computed from all ranks' measurements."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mel_ray.records.trajectory import Floats


@dataclass(frozen=True, slots=True)
class Measure(ABC):
    """A value; `merged` makes one of it and the other ranks' values."""

    value: float

    @abstractmethod
    def merged(self, others: Sequence["Measure"]) -> "Measure": ...


@dataclass(frozen=True, slots=True)
class Sum(Measure):
    """A part of a whole: the ranks' values add up."""

    def merged(self, others: Sequence[Measure]) -> "Sum":
        return Sum(sum([self.value, *(other.value for other in others)]))


@dataclass(frozen=True, slots=True)
class Max(Measure):
    """The largest of all ranks' values."""

    def merged(self, others: Sequence[Measure]) -> "Max":
        return Max(max([self.value, *(other.value for other in others)]))


@dataclass(frozen=True, slots=True)
class Same(Measure):
    """Global already: every rank has the same value."""

    def merged(self, others: Sequence[Measure]) -> "Same":
        return self


NORMS = {  # of gradients, the same on every rank
    "grad_norm": "policy/grad_norm",
    "policy_norm": "gradient/policy_norm",
    "experience_norm": "gradient/experience_norm",
    "gradient_cosine": "gradient/cosine",
}
QUANTILES = {"p01": 0.01, "p50": 0.5, "p99": 0.99}
OLDEST = 9  # versions; staler tokens are counted with those
EMPTY = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class StepMeasures:
    """Of one optimizer step; the log ratios are those of up to a few thousand policy tokens.

    `log_ratios`: pi to the ratio's denominator. `by_staleness`: the policy before the update to the one that sampled,
    by staleness, up to OLDEST; empty where samples cannot be stale or that policy is no longer known.
    """

    measures: Mapping[str, Measure]
    log_ratios: Floats = field(default_factory=lambda: EMPTY)
    by_staleness: Mapping[int, Floats] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        return self.measures[name].value

    @property
    def is_skipped(self) -> bool:
        """Its gradient was not applied."""
        return "skipped" in self.measures

    def ratio(self, numerator: str, denominator: str) -> float:
        return self[numerator] / self[denominator] if self[denominator] else 0.0


def merge_ranks(ranks: Sequence[StepMeasures]) -> StepMeasures:
    """One step as all ranks saw it; a rank may lack what it had no tokens for."""
    merged = {}
    for name in dict.fromkeys(name for rank in ranks for name in rank.measures):
        first, *others = [rank.measures[name] for rank in ranks if name in rank.measures]
        merged[name] = first.merged(others)
    levels = dict.fromkeys(level for rank in ranks for level in rank.by_staleness)
    by_staleness = {n: np.concatenate([rank.by_staleness.get(n, EMPTY) for rank in ranks]) for n in levels}
    return StepMeasures(merged, np.concatenate([rank.log_ratios for rank in ranks]), by_staleness)


def _quantiles(log_ratios: Floats) -> dict[str, float]:
    """Of the ratios."""
    if not len(log_ratios):
        return {}
    values = np.exp(np.quantile(log_ratios, list(QUANTILES.values())))
    return {name: float(value) for name, value in zip(QUANTILES, values, strict=True)}


def _staleness_metrics(step: StepMeasures) -> dict[str, float]:
    """Mean and maximum, and where a token is stale, how its policy tokens fare by staleness."""
    if "staleness" not in step.measures:
        return {}
    metrics = {"staleness/mean": step.ratio("staleness", "policy_tokens"), "staleness/max": step["oldest"]}
    if "outside" in step.measures:
        metrics["importance/outside_share"] = step.ratio("outside", "policy_tokens")
    for level in range(OLDEST + 1) if step["oldest"] > 0 else ():
        tokens, label = f"tokens/{level}", f"{level}+" if level == OLDEST else f"{level}"
        if tokens in step.measures:
            metrics[f"staleness/share/{label}"] = step.ratio(tokens, "policy_tokens")
            metrics[f"staleness/clip_share/{label}"] = step.ratio(f"clipped/{level}", tokens)
        quantiles = _quantiles(step.by_staleness.get(level, EMPTY))
        metrics |= {f"staleness/ratio_{name}/{label}": value for name, value in quantiles.items()}
    return metrics


def _effective_share(step: StepMeasures) -> float:
    """Of the guided tokens, by their ratios: Kish's effective sample size."""
    total = step["guided_tokens"] * step["guided_squared_ratio"]
    return step["guided_ratio"] ** 2 / total if total else 0.0


def _step_metrics(step: StepMeasures) -> dict[str, float]:
    """One optimizer step; what it had no tokens for is left out."""
    metrics = {
        "loss/joint": step["policy_loss"] + step["nll_loss"],
        "batch/padding_share": 1.0 - step.ratio("tokens", "padded_tokens"),
    }
    if step["policy_tokens"]:
        metrics |= {
            "loss/policy": step["policy_loss"],
            "policy/entropy": step.ratio("entropy", "policy_tokens"),
            "policy/clip_share": step.ratio("clipped", "policy_tokens"),
            "policy/reference_kl": step.ratio("reference_kl", "policy_tokens"),
        } | _staleness_metrics(step)
        metrics |= {f"policy/ratio_{name}": value for name, value in _quantiles(step.log_ratios).items()}
    if step["compared"]:
        metrics |= {
            "mismatch/kl": step.ratio("mismatch_kl", "compared"),
            "mismatch/max": step["mismatch"],
            "mismatch/outside_share": step.ratio("mismatch_outside", "compared"),
        }
    if "guided_tokens" in step.measures:
        metrics |= {
            "guide/tokens_share": step.ratio("guided_tokens", "policy_tokens"),
            "guide/ratio_mean": step.ratio("guided_ratio", "guided_tokens"),
            "guide/ratio_max": step["guided_max"],
            "guide/effective_share": _effective_share(step),
            "guide/above_cap_share": step.ratio("guided_above", "guided_tokens"),
        }
    if step["lesson_tokens"]:
        metrics |= {"loss/nll": step["nll_loss"], "mel/nll": step.ratio("lesson_nll", "lesson_tokens")}
    return metrics | {metric: step[name] for name, metric in NORMS.items() if name in step.measures}


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """A skipped step may have others, which would say nothing about the batch."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def update_metrics(steps: Sequence[StepMeasures], optimizer_steps: int) -> dict[str, float]:
    """Metrics of a batch's update, each averaged over the optimizer steps that have it; tokens are summed.

    `mel/nll` is in nats per trained token, `policy/entropy` in nats per sampled token.
    """
    if not steps:
        return {"batch/optimizer_steps": 0.0}
    each = [_finite(_step_metrics(step)) for step in steps]
    names = dict.fromkeys(name for one in each for name in one)
    means = {name: [one[name] for one in each if name in one] for name in names}
    return {name: sum(values) / len(values) for name, values in means.items()} | {
        "batch/optimizer_steps": float(optimizer_steps),
        "policy/skipped_updates": float(sum(step.is_skipped for step in steps)),
        "batch/signal_tokens": sum(step["policy_tokens"] + step["lesson_tokens"] for step in steps),
        "tokens/trained": sum(step["tokens"] for step in steps),
    }
