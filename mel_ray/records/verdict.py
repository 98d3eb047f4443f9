"""What the verifier said about answers (MEL Eq. 1), with its failures kept apart from its judgements."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    TIMEOUT = "timeout"
    ERROR = "error"


_REWARDS = {Outcome.CORRECT: 1.0, Outcome.WRONG: 0.0, Outcome.NO_ANSWER: 0.0}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One judgement. `extracted` is the answer found in the response, `reason` says why in a few words."""

    outcome: Outcome
    extracted: str | None = None
    reason: str = ""

    @property
    def reward(self) -> float | None:
        """1 for correct, 0 for wrong and for no answer; None where the verifier itself failed."""
        return _REWARDS.get(self.outcome)


@dataclass(frozen=True, slots=True)
class GroupVerdict:
    """One verdict per trajectory of a group, in its order."""

    verdicts: tuple[Verdict, ...]

    @property
    def rewards(self) -> tuple[float | None, ...]:
        return tuple(v.reward for v in self.verdicts)

    @property
    def correct(self) -> tuple[int, ...]:
        """Indices of Y+."""
        return tuple(i for i, v in enumerate(self.verdicts) if v.reward == 1.0)

    @property
    def incorrect(self) -> tuple[int, ...]:
        """Indices of Y-: judged and not correct."""
        return tuple(i for i, v in enumerate(self.verdicts) if v.reward == 0.0)

    @property
    def is_mixed(self) -> bool:
        return bool(self.correct) and bool(self.incorrect)
