"""Meta-experiences: the pair they contrast, the parsed M = (s*, C, H), and a draft with its fate so far."""

from dataclasses import dataclass
from enum import StrEnum

from mel_ray.records.trajectory import Group, Trajectory


@dataclass(frozen=True, slots=True)
class ContrastivePair:
    """Indices into a mixed group: y+ is `correct`, y- is `incorrect` (MEL 3.2)."""

    correct: int
    incorrect: int


@dataclass(frozen=True, slots=True)
class Experience:
    """M = (s*, C, H): bifurcation point, critique, heuristics (MEL Eq. 5)."""

    bifurcation: str
    critique: str
    heuristics: tuple[str, ...]


class DraftState(StrEnum):
    """Where a draft stands; every state but PARSED is final and names why it was rejected."""

    PARSED = "parsed"
    TRUNCATED = "draft_truncated"
    PARSE_FAILURE = "parse_failure"
    LEAKED_ANSWER = "leaked_answer"
    CONTEXT_TOO_LONG = "context_too_long"


@dataclass(frozen=True, slots=True)
class Draft:
    """One candidate of D_M: the pair, the retrospective prompt it was written from, and what was written.

    `written` holds the retrospective prompt and exactly one trajectory, M* itself: its tokens are what is
    internalised. It is None where the pair was skipped before any sampling (CONTEXT_TOO_LONG).
    """

    question: str
    answer: str
    question_id: str
    pair: ContrastivePair
    correct_text: str
    incorrect_text: str
    written: Group | None
    experience: Experience | None
    state: DraftState
    reason: str = ""
    tolerance: float = 0.0
    heuristics_span: tuple[int, int] | None = None  # tokens of M* that state H; None: not known, take all

    def __post_init__(self) -> None:
        if (self.state is DraftState.PARSED) != (self.experience is not None):
            raise ValueError(f"a draft in state {self.state} {'lacks' if not self.experience else 'has'} an experience")

    @property
    def trajectory(self) -> Trajectory | None:
        return self.written.trajectories[0] if self.written else None

    def facts(self) -> "DraftFacts":
        tokens = len(self.written.trajectories[0].token_ids) if self.written else 0
        return DraftFacts(
            state=self.state,
            prompt_tokens=len(self.written.prompt.token_ids) if self.written else 0,
            completion_tokens=tokens,
            pair=self.pair,
            heuristics_span=self.heuristics_span or (0, tokens),
        )


@dataclass(frozen=True, slots=True)
class DraftFacts:
    """What the driver may see of a draft."""

    state: DraftState
    prompt_tokens: int
    completion_tokens: int
    pair: ContrastivePair
    heuristics_span: tuple[int, int] = (0, 0)
