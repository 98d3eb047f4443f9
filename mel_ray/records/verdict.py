"""What the verifier said about an answer (MEL Eq. 1), with its failures kept apart from its judgements."""

from collections.abc import Mapping
from dataclasses import dataclass, field
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

    `score` is the reward where it is not simply 1 or 0: a custom function's, or the sum of `reward.parts`. `parts` are
    the values of its named parts, before they are weighted.
    """

    outcome: Outcome
    extracted: str | None = None
    reason: str = ""
    score: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_correct(self) -> bool:
        return self.outcome is Outcome.CORRECT

    @property
    def is_incorrect(self) -> bool:
        """Judged and not correct."""
        return self.outcome in (Outcome.WRONG, Outcome.NO_ANSWER)

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
