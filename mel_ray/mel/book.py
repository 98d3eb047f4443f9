"""Lessons of earlier steps, to show one of them where another question is solved."""

from collections.abc import Iterable
from random import Random

from mel_ray.records.row import Row

KEPT_STEPS = 4  # their records stay in the object store


class Book:
    """Drafts that parsed, by step. What is drawn depends on the seed and on what earlier steps wrote; not on timing, as
    long as a step begins when the one before has been explored (`driver.capacity=0`)."""

    def __init__(self) -> None:
        self._steps: dict[int, list[Row]] = {}

    def add(self, step: int, drafts: Iterable[Row]) -> None:
        self._steps.setdefault(step, []).extend(draft for draft in drafts if draft.replays)
        for old in sorted(self._steps)[:-KEPT_STEPS]:
            del self._steps[old]

    def other(self, step: int, question_id: str, seed: int) -> Row | None:
        """A draft of the steps before about another question; None while there is none."""
        drafts = [
            draft
            for of in sorted(self._steps)
            for draft in sorted(self._steps[of], key=lambda draft: (draft.question_id, draft.index))
            if of < step and draft.question_id != question_id
        ]
        return Random(seed).choice(drafts) if drafts else None
