"""Meta-experiences: the pair they contrast, the parsed M = (s*, C, H), and a draft."""

from dataclasses import dataclass
from enum import StrEnum

from mel_ray.records.ledger import DraftFate
from mel_ray.records.question import Question
from mel_ray.records.trajectory import Group, Trajectory

RULE_COLUMN = "world_rule"  # of a question of an embedded world: the right rule of its family


@dataclass(frozen=True, slots=True)
class ContrastivePair:
    """Indices into a group: y+ is `correct`, y- is `incorrect` (MEL 3.2). Of an all-wrong group `correct` is None: its
    place takes the reference answer (beyond the paper)."""

    correct: int | None
    incorrect: int


@dataclass(frozen=True, slots=True)
class Experience:
    """M = (s*, C, H): bifurcation point, critique, heuristics (MEL Eq. 5)."""

    bifurcation: str
    critique: str
    heuristics: tuple[str, ...]


class DraftState(StrEnum):
    """What came of writing a draft; every state but PARSED is a rejection and names its reason."""

    PARSED = "parsed"
    TRUNCATED = "draft_truncated"
    PARSE_FAILURE = "parse_failure"
    LEAKED_ANSWER = "leaked_answer"
    CONTEXT_TOO_LONG = "context_too_long"

    @property
    def fate(self) -> DraftFate | None:
        """The fate of a rejected draft; None for one that is still to be replayed."""
        return None if self is DraftState.PARSED else DraftFate(self.value)


@dataclass(frozen=True, slots=True)
class Draft:
    """One candidate of D_M: the pair, the retrospective prompt it was written from, and what was written.

    `written` holds the retrospective prompt and exactly one trajectory, M itself: its tokens are what is
    internalised. It is None where the pair was skipped before any sampling (CONTEXT_TOO_LONG).
    """

    question: Question
    pair: ContrastivePair
    correct_text: str
    incorrect_text: str
    written: Group | None
    experience: Experience | None
    state: DraftState
    reason: str = ""
    heuristics_span: tuple[int, int] | None = None  # tokens of M that state H; None: not known, take all

    def __post_init__(self) -> None:
        if (self.state is DraftState.PARSED) != (self.experience is not None):
            raise ValueError(f"a draft in state {self.state} {'lacks' if not self.experience else 'has'} an experience")

    @property
    def states_rule(self) -> bool | None:
        """Whether a heuristic is the right rule of its question's family, where an embedded world knows that one."""
        rule = self.question.columns.get(RULE_COLUMN)
        return None if rule is None or self.experience is None else rule in self.experience.heuristics

    @property
    def trajectory(self) -> Trajectory | None:
        return self.written.trajectories[0] if self.written else None
