"""Which half of a step the other one waits for, in one sentence, with the key that moves it."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from mel_ray.run.metrics_file import read_metrics
from mel_ray.run.stored_config import read_stored_config

PHASES = ("time/step", "time/explore", "time/train", "time/publish", "time/wait", "time/room")
NOTICEABLE = 0.1  # share of a step
WARM_UP = 1  # steps that are slower than those that follow


def phase_means(rows: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """Mean seconds of every phase over the steps after the first; None where there are none."""
    usable = [row for row in rows if all(name in row for name in PHASES)][WARM_UP:]
    return {name: fmean(row[name] for row in usable) for name in PHASES} if usable else None


def bottleneck(means: dict[str, float], capacity: int, is_partial: bool = False) -> str:
    """What a step waits for, and which key moves it."""
    step, explore, train = means["time/step"], means["time/explore"], means["time/train"]
    if not capacity:
        half = "exploring" if explore > train else "learning"
        return (
            f"bottleneck: the halves alternate, exploring {explore / step:.0%} and learning {train / step:.0%} of a "
            f"step, so {half} is the longer one; {gain_text(means)}"
        )
    wait, room = means["time/wait"] / step, means["time/room"] / step
    if wait > NOTICEABLE and wait >= room:
        other = "a larger rollout.oversample" if is_partial else "rollout.partial=true"
        return (
            f"bottleneck: exploring; the learner waits for rows {wait:.0%} of the time. More cluster.rollout.engines, "
            f"or {other} where a few long sequences are waited for"
        )
    if room > NOTICEABLE:
        return (
            f"bottleneck: learning; the explorer waits for room {room:.0%} of the time. More cluster.policy.ranks, or "
            "fewer cluster.rollout.engines"
        )
    return f"bottleneck: none; the learner waits {wait:.0%} of the time, the explorer {room:.0%}"


def gain_text(means: dict[str, float]) -> str:
    """What overlapping would bring a run that alternates."""
    alone = means["time/explore"] + means["time/train"] + means["time/publish"]
    both = max(means["time/explore"], means["time/train"]) + means["time/publish"]
    return (
        f"driver.capacity=1 would take about {both:.1f} s a step instead of {alone:.1f} s ({alone / both:.2f}x), if "
        "the pools do not share devices"
    )


def last_alternating_run(directory: Path, model: str) -> tuple[str, dict[str, float]] | None:
    """The newest run below a directory that trained this model without overlap, and its phases."""
    files = sorted(directory.glob("*/metrics.jsonl"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files[:20]:
        try:
            stored = read_stored_config(file.with_name("config.yaml"))
            is_alike = stored["model"]["path"] == model and not stored.get("driver", {}).get("capacity")
            means = phase_means(read_metrics(file)) if is_alike else None
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a damaged folder
        if means:
            return file.parent.name, means
    return None
