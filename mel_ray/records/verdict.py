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
    """One judgement. `extracted` is the answer found in the response, `reason` says why in a few words.

    `score` is a custom reward function's reward, where it is not simply 1 or 0.
    """

    outcome: Outcome
    extracted: str | None = None
    reason: str = ""
    score: float | None = None

    @property
    def has_failed(self) -> bool:
        """Whether the verifier itself failed, so that there is no reward."""
        return self.outcome not in _REWARDS

    @property
    def reward(self) -> float | None:
        """`score`, else 1 for correct, 0 for wrong and for no answer; None where the verifier itself failed."""
        if self.has_failed:
            return None
        return _REWARDS[self.outcome] if self.score is None else self.score


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
        return tuple(i for i, v in enumerate(self.verdicts) if v.outcome is Outcome.CORRECT)

    @property
    def incorrect(self) -> tuple[int, ...]:
        """Indices of Y-: judged and not correct."""
        return tuple(i for i, v in enumerate(self.verdicts) if v.outcome in (Outcome.WRONG, Outcome.NO_ANSWER))

    @property
    def is_mixed(self) -> bool:
        return bool(self.correct) and bool(self.incorrect)
