"""What the lessons of a step were worth: metrics over the rows of its drafts."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from mel_ray.records.row import Row, RowKind, drafts, success_rate

# By the success rate of the question's own attempts: the largest of a bin, and its name.
BINS = ((0.0, "none"), (1 / 3, "low"), (2 / 3, "middle"), (1.0, "high"))


def bin_of(rate: float) -> str:
    return next(name for largest, name in BINS if rate <= largest)


def lesson_metrics(rows: Sequence[Row]) -> dict[str, float]:
    """What there is nothing to measure of is left out. Shares are in [0, 1]."""
    drafted = drafts(rows)
    kept = [draft for draft in drafted if draft.is_proven]
    metrics = {
        "mel/right_rule_share": _mean(draft.states_rule for draft in kept),
        "mel/drafts_right_rule_share": _mean(draft.states_rule for draft in drafted),
        "mel/gain": _mean(draft.gain for draft in drafted),
        "mel/kept_gain": _mean(draft.gain for draft in kept),
    }
    recalled = [row for row in rows if row.kind is RowKind.RECALLED]
    if recalled:
        metrics |= {
            "travel/recalled": float(len(recalled)),
            "travel/pass_share": _mean(row.is_proven for row in recalled),
            "travel/age": _mean(row.age for row in recalled),
        }
    for _, name in BINS:
        own = [one for one in drafted if one.base_rate is not None and bin_of(one.base_rate) == name]
        metrics[f"mel/replay_pass/{name}"] = _mean(success_rate(draft.replays) for draft in own)
        metrics[f"mel/kept_share/{name}"] = _mean(draft.is_proven for draft in own)
    return {name: value for name, value in metrics.items() if value is not None}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return fmean(known) if known else None
