"""From the ranks' sums to the metrics of an update."""

from collections.abc import Mapping, Sequence


def merge_ranks(ranks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sums of sums and counts, maxima of `_max`; `grad_norm` is already global."""
    merged: dict[str, float] = {}
    for name in ranks[0]:
        values = [rank[name] for rank in ranks]
        merged[name] = max(values) if name.endswith("_max") or name == "grad_norm" else sum(values)
    return merged


def _ratio(sums: Mapping[str, float], numerator: str, denominator: str) -> float:
    return sums[numerator] / sums[denominator] if sums[denominator] else 0.0


def update_metrics(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Metrics of the optimizer steps of one batch, averaged over them; nothing where there was none.

    `mel/nll` is in nats per token of M*, `policy/entropy` in nats per sampled token.
    """
    if not steps:
        return {"batch/optimizer_steps": 0.0}
    each = [
        {
            "loss/policy": sums["policy_loss_sum"],
            "loss/nll": sums["nll_loss_sum"],
            "loss/joint": sums["policy_loss_sum"] + sums["nll_loss_sum"],
            "mel/nll": _ratio(sums, "lesson_nll_sum", "lesson_tokens"),
            "policy/entropy": _ratio(sums, "entropy_sum", "policy_tokens"),
            "policy/clip_share": _ratio(sums, "clipped_sum", "policy_tokens"),
            "policy/grad_norm": sums["grad_norm"],
            "mismatch/kl": _ratio(sums, "mismatch_kl_sum", "policy_tokens"),
            "mismatch/max": sums["mismatch_max"],
            "mismatch/outside_share": _ratio(sums, "mismatch_outside_sum", "policy_tokens"),
            "batch/padding_share": 1.0 - _ratio(sums, "tokens", "padded_tokens"),
        }
        for sums in steps
    ]
    averaged = {name: sum(one[name] for one in each) / len(each) for name in each[0]}
    return averaged | {"batch/optimizer_steps": float(len(steps)), "tokens/trained": sum(s["tokens"] for s in steps)}
