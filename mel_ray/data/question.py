"""A question of a dataset, before it is rendered for a model."""

from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class Question:
    question: str
    answer: str
    tolerance: float = 0.0

    @property
    def question_id(self) -> str:
        """Stable across runs and machines: a digest of the question's text."""
        return blake2b(self.question.encode(), digest_size=8).hexdigest()
