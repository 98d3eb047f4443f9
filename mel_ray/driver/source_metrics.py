"""Metrics of each training source, where there are several."""

from collections.abc import Sequence

from mel_ray.records.row import Row, attempts, is_mixed


def source_metrics(rows: Sequence[Row], sources: Sequence[str]) -> dict[str, float]:
    """Of each source: its share of the questions asked, the mean reward, and the share of its groups that are mixed.
    The last two are absent in a step that says nothing about them. Empty for a single source."""
    if len(sources) < 2:
        return {}
    groups: dict[object, list[Row]] = {}
    for row in attempts(rows):
        groups.setdefault(row.ref, []).append(row)
    metrics: dict[str, float] = {}
    for name in sources:
        own = [group for group in groups.values() if group[0].source == name]
        rewards = [row.verdict.reward for group in own for row in group if row.verdict]
        judged = [reward for reward in rewards if reward is not None]
        metrics[f"source/{name}/share"] = len(own) / len(groups) if groups else 0.0
        if judged:
            metrics[f"source/{name}/reward"] = sum(judged) / len(judged)
        if own:
            metrics[f"source/{name}/mixed_share"] = sum(map(is_mixed, own)) / len(own)
    return metrics
