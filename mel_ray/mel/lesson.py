"""From proven meta-experiences to lessons: which tokens are internalised, and as an answer to what (MEL 3.3)."""

from collections.abc import Sequence
from dataclasses import replace

from mel_ray.config.schema import MelConfig
from mel_ray.records.row import Row, RowKind, correct, drafts


def lessons_of(rows: Sequence[Row], mel: MelConfig) -> list[Row]:
    """One lesson per proven draft that is not too old, in order; `rows` are drafts and the attempts they are about.

    - `mel.target=experience`: M, conditioned on C_retro (`mel.context=retrospective`, MEL Eq. 7) or on the bare
      question (`mel.context=question`); all of it, or its heuristics alone (`mel.sections`)
    - `mel.target=replay`: the first correct replay, conditioned on the question without M: context distillation
      (beyond the paper)
    """
    question = {row.group: row for row in rows if row.kind is RowKind.ATTEMPT and row.index == 0}
    usable = [row for row in drafts(rows) if row.is_proven and row.fate is None and row.group >= 0]
    return [_lesson(row, question[row.group], mel) for row in usable]


def _lesson(draft: Row, question: Row, mel: MelConfig) -> Row:
    """`question` is any attempt of the draft's question: its prompt is the bare question."""
    if mel.target == "replay":
        replay = draft.replays[correct(draft.replays)[0]]
        return replace(
            replay,
            group=draft.group,
            context=question.ref,
            prompt_tokens=question.prompt_tokens,
            teaches=draft.sample,
            gain=draft.gain,
        )
    lesson = replace(draft, replays=())
    if mel.sections == "heuristics" and draft.heuristics is not None:
        first, end = draft.heuristics
        lesson = replace(lesson, span=draft.heuristics, trained_tokens=end - first)
    if mel.context == "question":
        lesson = replace(lesson, context=question.ref, prompt_tokens=question.prompt_tokens)
    return lesson
