"""Lessons as guidance: the replays that Eq. 6 samples anyway join their question's group (beyond the paper)."""

from collections.abc import Sequence
from dataclasses import replace

from mel_ray.config.schema import MelConfig
from mel_ray.records.row import Row


def joining(group: Sequence[Row], drafts: Sequence[Row], mel: MelConfig) -> tuple[Row, ...]:
    """With `mel.credit=augment`, the replays as rows on the bare question: the policy is to solve it without M.

    They are compared with the question's attempts, so a failed replay has a negative advantage. All join, with
    `mel.keep=gain` only those of proven drafts. Their tokens were sampled with M in the prompt: off-policy by
    construction (`mel.correction`).
    """
    if "augment" not in mel.credit:
        return ()
    question = group[0]
    return tuple(
        replace(replay, is_guided=True, context=question.ref, prompt_tokens=question.prompt_tokens)
        for draft in drafts
        if draft.is_proven or mel.keep == "replay"
        for replay in draft.replays
    )
