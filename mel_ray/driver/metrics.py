"""From the rows of a step and its update to the stable metric names of docs/metrics.md."""

import time
from collections import Counter
from collections.abc import Sequence

from mel_ray.driver.learner import Learned
from mel_ray.mel.measures import lesson_metrics
from mel_ray.policy.rows import advantage_spread
from mel_ray.records.ledger import DraftFate, Ledger, TrajectoryFate
from mel_ray.records.row import Row, RowKind, attempts, correct, drafts, guides, incorrect
from mel_ray.records.trajectory import FinishReason
from mel_ray.records.verdict import Outcome


def _share(count: float, total: float) -> float:
    return count / total if total else 0.0


class Clock:
    """Seconds of a step's phases."""

    def __init__(self) -> None:
        self._started = self._last = time.monotonic()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self._laps[name], self._last = now - self._last, now

    def total(self, name: str) -> dict[str, float]:
        return self._laps | {name: time.monotonic() - self._started}


def _by_question(rows: Sequence[Row]) -> list[list[Row]]:
    questions: dict[object, list[Row]] = {}
    for row in rows:
        questions.setdefault(row.ref, []).append(row)
    return list(questions.values())


def _part_means(tried: Sequence[Row]) -> dict[str, float]:
    """Mean of each part of the reward over the attempts that have it."""
    values: dict[str, list[float]] = {}
    for row in tried:
        for name, value in (row.verdict.parts if row.verdict and not row.verdict.has_failed else {}).items():
            values.setdefault(name, []).append(value)
    return {name: _share(sum(found), len(found)) for name, found in values.items()}


def step_metrics(learned: Learned, ledger: Ledger, minibatches: int) -> dict[str, float]:
    """Metrics of a step but for its timings, over everything that was asked. Shares are in [0, 1], lengths in
    tokens. `minibatches` are those that the configuration asks for."""
    tried, drafted, lessons = attempts(learned.rows), drafts(learned.rows), learned.lessons
    groups = _by_question(tried)
    outcomes = Counter(row.verdict.outcome for row in tried if row.verdict)
    rewards = [row.verdict.reward for row in tried if row.verdict and row.verdict.reward is not None]
    lengths = [row.tokens for row in tried]
    replays = [replay for draft in guides(learned.rows) for replay in draft.replays]
    replay_rewards = [row.verdict.reward for row in replays if row.verdict and row.verdict.reward is not None]
    kept = sum(draft.is_proven for draft in drafted)
    mixed = [group for group in groups if correct(group) and incorrect(group)]
    all_correct = [group for group in groups if correct(group) and not incorrect(group)]
    trained = sum(ledger.trajectories.get(fate, 0) for fate in (TrajectoryFate.TRAINED, TrajectoryFate.TRAINED_STALE))
    trained += sum(ledger.drafts.get(fate, 0) for fate in (DraftFate.TRAINED, DraftFate.TRAINED_STALE))
    metrics = {
        "reward/mean": _share(sum(rewards), len(rewards)),
        "group/mixed_share": _share(len(mixed), len(groups)),
        "group/all_correct_share": _share(len(all_correct), len(groups)),
        "rollout/length_mean": _share(sum(lengths), len(lengths)),
        "rollout/length_max": float(max(lengths, default=0)),
        "rollout/truncated_share": _share(sum(row.finish_reason is FinishReason.LENGTH for row in tried), len(tried)),
        "mel/pairs": float(len(drafted)),
        "mel/parsed": float(sum(bool(draft.replays) for draft in drafted)),
        "mel/kept": float(kept),
        "mel/retention": _share(kept, len(drafted)),
        "mel/weight": lessons.weight,
        "mel/past": float(len(lessons.past)),
        "mel/replay_reward": _share(sum(replay_rewards), len(replay_rewards)),
        "advantage/spread": advantage_spread(learned.rows),
        "batch/trained_sequences": float(trained),
        "batch/questions": float(len(groups)),
        "batch/filtered_share": _share(
            ledger.trajectories.get(TrajectoryFate.FILTERED, 0), ledger.sampled_trajectories
        ),
        "batch/skipped_minibatches": float(minibatches - learned.minibatches),
        "tokens/rollout": float(sum(lengths)),
        "tokens/resampled": float(sum(row.tokens for row in learned.rows if row.kind is RowKind.RESAMPLED)),
        "tokens/experience": float(sum(row.tokens for row in (*drafted, *replays))),
    }
    metrics |= lesson_metrics(learned.rows)
    metrics |= {f"reward/part/{name}": value for name, value in _part_means(tried).items()}
    metrics |= {f"verdict/{outcome.value}": _share(outcomes[outcome], len(tried)) for outcome in Outcome}
    return metrics | dict(learned.update.metrics)
