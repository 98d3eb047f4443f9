"""What is said of a run in which no optimizer step was made: that, and what most of its trajectories came to."""

from collections.abc import Sequence
from typing import Any

from mel_ray.records.ledger import Ledger, TrajectoryFate
from mel_ray.records.problem import counted

_CAME_TO = {
    TrajectoryFate.NO_SIGNAL: "brought no signal",
    TrajectoryFate.TRUNCATED: "were left out by algorithm.mask_truncated",
    TrajectoryFate.INCORRECT: "were left out as incorrect by rejection sampling",
    TrajectoryFate.DUPLICATE: "were left out as duplicates by rejection sampling",
    TrajectoryFate.FILTERED: "were filtered out by dynamic sampling",
    TrajectoryFate.SKIPPED: "belonged to skipped mini-batches",
    TrajectoryFate.VERIFIER_TIMEOUT: "could not be judged before the verifier's deadline",
    TrajectoryFate.VERIFIER_ERROR: "could not be judged, because the verifier failed",
}


def optimizer_steps(steps: Sequence[dict[str, Any]]) -> int | None:
    """How many were made in all; None where a step does not say."""
    metric = "batch/optimizer_steps"
    return int(sum(row[metric] for row in steps)) if all(metric in row for row in steps) else None


def unlearned_text(steps: Sequence[dict[str, Any]]) -> str | None:
    """One sentence if no optimizer step was made in these steps; else None."""
    if not steps or optimizer_steps(steps) != 0:
        return None
    ledger = sum((Ledger.from_dict(row["ledger"]) for row in steps), Ledger())
    fate = max(TrajectoryFate, key=lambda fate: ledger.trajectories.get(fate, 0))
    count, sampled = ledger.trajectories.get(fate, 0), ledger.sampled_trajectories
    came_to = f"{count} of {sampled} trajectories {_CAME_TO[fate]}" if fate in _CAME_TO else f"{sampled} trajectories"

    def share(*names: str) -> float:
        return sum(row.get(name, 0.0) for row in steps for name in names) / len(steps)

    all_right = share("group/all_correct_share")
    no_right = max(0.0, 1.0 - share("group/mixed_share") - all_right)
    return (
        f"no optimizer step was made in {counted(len(steps), 'training step')}, so the policy is unchanged: {came_to} "
        f"(questions: {no_right:.0%} without a correct answer, {all_right:.0%} with only correct ones; trajectories: "
        f"{share('rollout/truncated_share'):.0%} cut off at rollout.max_tokens, {share('verdict/no_answer'):.0%} "
        f"without an answer, {share('verdict/timeout', 'verdict/error'):.0%} not judged)"
    )
