"""A benchmark, and the answers to its questions as facts: what the driver and the statistics need, without texts."""

from collections.abc import Sequence
from dataclasses import dataclass

from mel_ray.records.row import Row
from mel_ray.records.trajectory import FinishReason, Prompt
from mel_ray.records.verdict import Outcome


@dataclass(frozen=True, slots=True)
class Benchmark:
    name: str
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """One entry per sample: outcome, length in tokens, finish reason."""

    outcomes: tuple[Outcome, ...]
    lengths: tuple[int, ...]
    finish_reasons: tuple[FinishReason, ...]

    def __post_init__(self) -> None:
        if not len(self.outcomes) == len(self.lengths) == len(self.finish_reasons):
            raise ValueError("outcomes, lengths and finish reasons differ in number")

    @property
    def correct(self) -> int:
        return sum(outcome is Outcome.CORRECT for outcome in self.outcomes)

    @property
    def count(self) -> int:
        return len(self.outcomes)

    @classmethod
    def nothing(cls, count: int) -> "Answered":
        """Of a question that no engine survives."""
        return cls((Outcome.ERROR,) * count, (0,) * count, (FinishReason.STOP,) * count)

    @classmethod
    def of(cls, judged: Sequence[Row]) -> "Answered":
        return cls(
            tuple(row.verdict.outcome for row in judged if row.verdict),
            tuple(row.tokens for row in judged),
            tuple(row.finish_reason for row in judged),
        )


@dataclass(frozen=True, slots=True)
class QuestionResult:
    """`greedy` at temperature 0, `sampled` at the evaluation's temperature (no samples where none were asked)."""

    question_id: str
    greedy: Answered
    sampled: Answered


@dataclass(frozen=True, slots=True)
class PassRate:
    """How often a model solves a training question; `truncated`, `no_answer` and `failed` (in the verifier) count
    samples, too."""

    question_id: str
    question: str
    source: str
    samples: int
    correct: int
    truncated: int = 0
    no_answer: int = 0
    failed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.samples or self.samples < 1:
            raise ValueError(f"{self.correct} correct of {self.samples} samples")

    @property
    def pass_rate(self) -> float:
        return self.correct / self.samples
