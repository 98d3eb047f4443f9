"""From the ranks' sums to the metrics of an update."""

from collections.abc import Mapping, Sequence

import numpy as np

from mel_ray.records.arrays import Floats
from mel_ray.records.update import RankSums

_NORMS = {  # the same on every rank
    "grad_norm": "policy/grad_norm",
    "policy_norm": "gradient/policy_norm",
    "experience_norm": "gradient/experience_norm",
    "gradient_cosine": "gradient/cosine",
}
QUANTILES = {"p01": 0.01, "p50": 0.5, "p99": 0.99}


def merge_ranks(ranks: Sequence[RankSums]) -> RankSums:
    """Sums of sums and counts, maxima of `_max`; what is already global stays."""
    merged: dict[str, float] = {}
    for name in ranks[0].sums:
        values = [rank.sums[name] for rank in ranks]
        merged[name] = max(values) if name.endswith("_max") or name in _NORMS else sum(values)
    return RankSums(merged, np.concatenate([rank.log_ratios for rank in ranks]))


def _ratio(sums: Mapping[str, float], numerator: str, denominator: str) -> float:
    return sums[numerator] / sums[denominator] if sums[denominator] else 0.0


def _quantiles(log_ratios: Floats) -> dict[str, float]:
    if not len(log_ratios):
        return {}
    values = np.exp(np.quantile(log_ratios, list(QUANTILES.values())))
    return {f"policy/ratio_{name}": float(value) for name, value in zip(QUANTILES, values, strict=True)}


def _step_metrics(step: RankSums) -> dict[str, float]:
    """One optimizer step; what it had no tokens for is left out."""
    sums = step.sums
    metrics = {
        "loss/joint": sums["policy_loss_sum"] + sums["nll_loss_sum"],
        "batch/padding_share": 1.0 - _ratio(sums, "tokens", "padded_tokens"),
    }
    if sums["policy_tokens"]:
        metrics |= {
            "loss/policy": sums["policy_loss_sum"],
            "policy/entropy": _ratio(sums, "entropy_sum", "policy_tokens"),
            "policy/clip_share": _ratio(sums, "clipped_sum", "policy_tokens"),
            "policy/reference_kl": _ratio(sums, "reference_kl_sum", "policy_tokens"),
            "mismatch/kl": _ratio(sums, "mismatch_kl_sum", "policy_tokens"),
            "mismatch/max": sums["mismatch_max"],
            "mismatch/outside_share": _ratio(sums, "mismatch_outside_sum", "policy_tokens"),
        } | _quantiles(step.log_ratios)
    if sums["lesson_tokens"]:
        metrics |= {"loss/nll": sums["nll_loss_sum"], "mel/nll": _ratio(sums, "lesson_nll_sum", "lesson_tokens")}
    return metrics | {_NORMS[name]: sums[name] for name in _NORMS if name in sums}


def update_metrics(steps: Sequence[RankSums], optimizer_steps: int) -> dict[str, float]:
    """Metrics of a batch's update, each averaged over the optimizer steps that have it; tokens are summed.

    `mel/nll` is in nats per trained token, `policy/entropy` in nats per sampled token.
    """
    counts = {
        "batch/optimizer_steps": float(optimizer_steps),
        "batch/signal_tokens": sum(s.sums["policy_tokens"] + s.sums["lesson_tokens"] for s in steps),
        "tokens/trained": sum(s.sums["tokens"] for s in steps),
    }
    if not steps:
        return {"batch/optimizer_steps": 0.0}
    each = [_step_metrics(step) for step in steps]
    names = dict.fromkeys(name for one in each for name in one)
    means = {name: [one[name] for one in each if name in one] for name in names}
    return {name: sum(values) / len(values) for name, values in means.items()} | counts
