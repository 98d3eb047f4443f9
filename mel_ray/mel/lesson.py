"""From proven meta-experiences to what is internalised: which tokens, behind which context (MEL 3.3)."""

from random import Random

from mel_ray.config.schema import MelConfig
from mel_ray.records.exploration import Exploration, JudgedDraft
from mel_ray.records.lesson import Lesson
from mel_ray.records.sequence import SequenceKind


def lessons_of(explored: Exploration, mel: MelConfig) -> tuple[Lesson, ...]:
    """One lesson per proven draft of the question.

    - `mel.target=experience`: M*, behind C_retro (`mel.context=retrospective`, MEL Eq. 7) or behind the bare
      question (`mel.context=question`); all of it, or its heuristics alone (`mel.sections`)
    - `mel.target=replay`: the first correct replay, answered without M* in the prompt: context distillation
      (beyond the paper)
    """
    return tuple(_lesson(explored, draft, mel) for draft in explored.lessons)


def _lesson(explored: Exploration, judged: JudgedDraft, mel: MelConfig) -> Lesson:
    question, draft = explored.group, judged.draft
    if mel.target == "replay":
        assert judged.replay is not None and judged.replay_verdict is not None
        index = judged.replay_verdict.correct[0]
        tokens = judged.replay.group.facts.lengths[index]
        return Lesson(SequenceKind.REPLAY, judged.replay.group.ref, index, question.facts.question_id, question.ref,
                      question.facts.prompt_tokens, tokens, (0, tokens))  # fmt: skip
    facts, is_bare = draft.facts, mel.context == "question"
    span = (0, facts.completion_tokens) if mel.sections == "all" else facts.heuristics_span
    return Lesson(
        kind=SequenceKind.EXPERIENCE,
        ref=draft.ref,
        index=draft.index,
        question_id=question.facts.question_id,
        context_ref=question.ref if is_bare else None,
        context_tokens=question.facts.prompt_tokens if is_bare else facts.prompt_tokens,
        tokens=facts.completion_tokens,
        span=span,
    )


class Memory:
    """Past lessons, at most `size`, none older than `max_age` steps: a bounded replay buffer.

    Beyond the paper; the oldest leave first. What is drawn depends on seed and step alone.
    """

    def __init__(self, size: int, max_age: int, seed: int) -> None:
        self._size, self._max_age, self._seed = size, max_age, seed
        self.entries: list[tuple[int, Lesson]] = []

    def add(self, step: int, lessons: list[Lesson]) -> None:
        self.entries = (self.entries + [(step, lesson) for lesson in lessons])[-self._size :] if self._size else []

    def draw(self, step: int, count: int) -> list[Lesson]:
        """Up to `count` different lessons of earlier steps."""
        self.entries = self.entries[-self._size :] if self._size else []
        self.entries = [(born, lesson) for born, lesson in self.entries if step - born <= self._max_age]
        alive = [lesson for _, lesson in self.entries]
        return Random(f"memory:{self._seed}:{step}").sample(alive, min(count, len(alive)))
