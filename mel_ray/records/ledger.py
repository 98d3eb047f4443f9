"""The sample ledger: every trajectory and every draft ends in exactly one named state."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class TrajectoryFate(StrEnum):
    TRAINED = "trained"
    TRAINED_STALE = "trained_stale"  # although older than driver.max_staleness
    STALE = "stale"  # left out for that
    NO_SIGNAL = "no_signal"
    TRUNCATED = "truncated"
    INCORRECT = "incorrect"  # left out by rejection sampling
    DUPLICATE = "duplicate"  # the same tokens as another correct trajectory of the question
    FILTERED = "filtered"  # its group brought no signal, and dynamic sampling asked for another
    SKIPPED = "skipped"  # its mini-batch was skipped
    VERIFIER_TIMEOUT = "verifier_timeout"
    VERIFIER_ERROR = "verifier_error"


class DraftFate(StrEnum):
    TRAINED = "trained"
    TRAINED_STALE = "trained_stale"
    STALE = "stale"
    TRUNCATED = "draft_truncated"
    PARSE_FAILURE = "parse_failure"
    LEAKED_ANSWER = "leaked_answer"
    CONTEXT_TOO_LONG = "context_too_long"
    REPLAY_FAILED = "replay_failed"
    REPLAY_UNVERIFIED = "replay_unverified"
    NO_GAIN = "no_gain"  # its replays pass, but hardly more often than its question's attempts
    GUIDED = "guided"  # proven; not trained itself, but its replays were, or its question's attempts by its credit
    SKIPPED = "skipped"  # proven, but no batch took its lesson


@dataclass(frozen=True, slots=True)
class Ledger:
    """Counts per fate. Trajectories are attempts, and what joined them. `sampled_*` counts the samples
    themselves, with or without a fate; `asked_again` those that were asked for a second time because the actor that was
    at work on them was lost."""

    sampled_trajectories: int = 0
    sampled_drafts: int = 0
    trajectories: Mapping[TrajectoryFate, int] = field(default_factory=dict)
    drafts: Mapping[DraftFate, int] = field(default_factory=dict)
    asked_again: int = 0

    @property
    def is_balanced(self) -> bool:
        return (
            sum(self.trajectories.values()) == self.sampled_trajectories
            and sum(self.drafts.values()) == self.sampled_drafts
        )

    def __add__(self, other: "Ledger") -> "Ledger":
        return Ledger(
            self.sampled_trajectories + other.sampled_trajectories,
            self.sampled_drafts + other.sampled_drafts,
            Counter(self.trajectories) + Counter(other.trajectories),
            Counter(self.drafts) + Counter(other.drafts),
            self.asked_again + other.asked_again,
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "trajectories": {
                "sampled": self.sampled_trajectories,
                **{fate.value: self.trajectories.get(fate, 0) for fate in TrajectoryFate},
            },
            "drafts": {
                "sampled": self.sampled_drafts,
                **{fate.value: self.drafts.get(fate, 0) for fate in DraftFate},
            },
            "asked_again": self.asked_again,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Ledger":
        trajectories, drafts = dict(data["trajectories"]), dict(data["drafts"])
        return cls(
            trajectories.pop("sampled"),
            drafts.pop("sampled"),
            {TrajectoryFate(name): count for name, count in trajectories.items() if count},
            {DraftFate(name): count for name, count in drafts.items() if count},
            data.get("asked_again", 0),
        )
