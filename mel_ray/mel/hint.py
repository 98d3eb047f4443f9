"""Lesson-conditioned credit: by how much a lesson changes the logprob of each token of an attempt (beyond the paper).

The policy reads the very same tokens once more with M in the prompt, without gradient. What M makes likelier, it asks
for; what it makes less likely, it warns of.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mel_ray.config.learning import HintConfig
from mel_ray.config.schema import MelConfig
from mel_ray.records.ledger import DraftFate
from mel_ray.records.row import Row, RowKind, guides
from mel_ray.records.trajectory import Floats


def lending(drafted: Sequence[Row], mel: MelConfig) -> tuple[Row, ...]:
    """With `mel.credit=hint`, the first proven draft of a question lends credit to its attempts."""
    proven = [number for number, draft in enumerate(drafted) if draft.is_proven]
    if "hint" not in mel.credit or not proven:
        return tuple(drafted)
    return tuple(replace(draft, lends_credit=number == proven[0]) for number, draft in enumerate(drafted))


@dataclass(frozen=True, slots=True)
class Hint:
    """An attempt, the same read with the lesson in its prompt, and with one that failed its replay where there is one.

    `gain` is the lesson's.
    """

    attempt: Row
    with_lesson: Row
    with_wrong_lesson: Row | None
    gain: float | None


def hints_of(rows: Sequence[Row], contrast: str, oldest: int | None = None) -> list[Hint]:
    """One per attempt of the questions of the batch that have a lending draft, not older than version `oldest`; a
    recalled lesson may be."""
    drafted = [
        draft
        for draft in guides(rows)
        if draft.group >= 0 and draft.replays and not (draft.kind is RowKind.DRAFT and draft.is_older_than(oldest))
    ]
    lessons = {draft.group: draft for draft in drafted if draft.lends_credit and draft.fate is None}
    wrong = {draft.group: draft for draft in drafted if draft.fate is DraftFate.REPLAY_FAILED}
    if contrast == "none":
        wrong = {}
    return [
        Hint(
            row,
            _reading(row, lessons[row.group]),
            _reading(row, wrong[row.group]) if row.group in wrong else None,
            lessons[row.group].gain,
        )
        for row in rows
        if row.kind is RowKind.ATTEMPT and row.group in lessons and row.trained_tokens
    ]


def _reading(attempt: Row, draft: Row) -> Row:
    """The attempt as a continuation of the prompt of the draft's replays."""
    replay = draft.replays[0]
    return replace(attempt, context=replay.ref, prompt_tokens=replay.prompt_tokens)


def hint_credit(
    bare: Floats, with_lesson: Floats, with_wrong: Floats | None, is_correct: bool, factor: float, hint: HintConfig
) -> Floats:
    """What is added to the advantage of each token, [trained tokens]: weight * tanh(difference / width) * factor, in
    nats of logprobs; minus the same under the wrong lesson.

    With `sign=verdict` a correct attempt's tokens get only what is positive and an incorrect one's only what is
    negative. Equal prompts give exactly zero.
    """

    def shaped(logprobs: Floats) -> Floats:
        return np.tanh((logprobs - bare) / hint.width)

    credit = shaped(with_lesson) - (0.0 if with_wrong is None else shaped(with_wrong))
    if hint.sign == "verdict":
        credit = np.maximum(credit, 0.0) if is_correct else np.minimum(credit, 0.0)
    return (hint.weight * factor * credit).astype(np.float32)
