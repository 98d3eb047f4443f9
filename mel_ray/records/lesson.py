"""What a proven meta-experience teaches: the sequence that is internalised, as the driver knows it."""

from dataclasses import dataclass
from typing import Any

from mel_ray.records.sequence import SequenceKind


@dataclass(frozen=True, slots=True)
class Lesson:
    """`ref` and `index` lead to the draft (kind EXPERIENCE) or to the replays (kind REPLAY).

    `context_ref` leads to a Group whose prompt is the context; None: the context in which it was written. `tokens` are
    those behind the context, of which `span` (start, end) carries loss.
    """

    kind: SequenceKind
    ref: Any
    index: int
    question_id: str
    context_ref: Any
    context_tokens: int
    tokens: int
    span: tuple[int, int]

    @property
    def trained_tokens(self) -> int:
        return self.span[1] - self.span[0]
