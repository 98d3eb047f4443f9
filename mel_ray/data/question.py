"""A question of a dataset, before it is rendered for a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any


@dataclass(frozen=True, slots=True)
class Question:
    question: str
    answer: str
    tolerance: float = 0.0
    columns: Mapping[str, Any] = field(default_factory=dict)  # the dataset's row

    @property
    def question_id(self) -> str:
        """Stable across runs and machines: a digest of the question's text."""
        return blake2b(self.question.encode(), digest_size=8).hexdigest()
