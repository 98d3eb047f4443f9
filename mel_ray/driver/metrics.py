"""From explorations, batch and update to the stable metric names of docs/metrics.md."""

import time
from collections import Counter
from collections.abc import Sequence

from mel_ray.records.exploration import Exploration
from mel_ray.records.ledger import DraftFate, TrajectoryFate
from mel_ray.records.report import UpdateReport
from mel_ray.records.verdict import Outcome
from mel_ray.policy.batch import Batch, Lessons


def _share(count: float, total: float) -> float:
    return count / total if total else 0.0


def _experience_tokens(explored: Sequence[Exploration]) -> int:
    drafts = [draft for one in explored for draft in one.drafts]
    written = sum(draft.draft.facts.completion_tokens for draft in drafts)
    return written + sum(d.replay.group.facts.completion_tokens for d in drafts if d.replay)


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


def step_metrics(
    explored: Sequence[Exploration], lessons: Lessons, batch: Batch, update: UpdateReport
) -> dict[str, float]:
    """Metrics of a step but for its timings, over everything that was asked. Shares are in [0, 1], lengths in
    tokens."""
    verdicts = [verdict for one in explored for verdict in one.verdict.verdicts]
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    rewards = [verdict.reward for verdict in verdicts if verdict.reward is not None]
    facts = [one.group.facts for one in explored]
    lengths = [length for fact in facts for length in fact.lengths]
    drafts = [draft for one in explored for draft in one.drafts]
    fates = Counter(draft.fate for draft in drafts)
    replayed = [draft for draft in drafts if draft.replay is not None]
    kept = fates[DraftFate.TRAINED]
    replay_rewards = [
        reward
        for draft in replayed
        if draft.replay_verdict
        for reward in draft.replay_verdict.rewards
        if reward is not None
    ]
    metrics = {
        "reward/mean": _share(sum(rewards), len(rewards)),
        "group/mixed_share": _share(sum(one.verdict.is_mixed for one in explored), len(explored)),
        "group/all_correct_share": _share(
            sum(bool(one.verdict.correct) and not one.verdict.incorrect for one in explored), len(explored)
        ),
        "rollout/length_mean": _share(sum(lengths), len(lengths)),
        "rollout/length_max": float(max(lengths, default=0)),
        "rollout/truncated_share": _share(
            sum(reason == "length" for fact in facts for reason in fact.finish_reasons), len(lengths)
        ),
        "mel/pairs": float(len(drafts)),
        "mel/parsed": float(len(replayed)),
        "mel/kept": float(kept),
        "mel/retention": _share(kept, len(drafts)),
        "mel/weight": lessons.weight,
        "mel/past": float(len(lessons.past)),
        "mel/replay_reward": _share(sum(replay_rewards), len(replay_rewards)),
        "advantage/spread": batch.advantage_spread,
        "batch/trained_sequences": float(batch.ledger.trajectories.get(TrajectoryFate.TRAINED, 0) + kept),
        "batch/questions": float(len(explored)),
        "batch/filtered_share": _share(
            batch.ledger.trajectories.get(TrajectoryFate.FILTERED, 0), batch.ledger.sampled_trajectories
        ),
        "batch/skipped_minibatches": float(batch.skipped_minibatches),
        "tokens/rollout": float(sum(lengths)),
        "tokens/experience": float(_experience_tokens(explored)),
    }
    metrics |= {f"verdict/{outcome.value}": _share(outcomes[outcome], len(verdicts)) for outcome in Outcome}
    return metrics | dict(update.metrics)
