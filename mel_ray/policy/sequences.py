"""A row with its tokens: what a rank trains on."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mel_ray.records.experience import Draft
from mel_ray.records.row import Ref, Row, RowKind
from mel_ray.records.step import TrainSequence
from mel_ray.records.trajectory import Group, Mask, Trajectory


def train_sequence(row: Row, records: Mapping[Ref | None, Any]) -> TrainSequence:
    """The context, which carries no loss, and then exactly the tokens that were sampled (MEL Eqs. 7, 10).

    `records` holds what `row.ref` and `row.context` lead to. The context is the prompt the tokens were sampled from
    ([I, x, y+, y-] for a meta-experience), or that of another group where the row names one. Tokens under the mask
    carry the row's weights; of a lesson with a `span`, only those within it.

    Raises:
        ValueError: the draft was never written.
    """
    group, trajectory = _sampled(row, records[row.ref])
    context = (group if row.context is None else records[row.context]).prompt.token_ids
    mask = trained_mask(trajectory, row.span)
    count = int(mask.sum())
    return TrainSequence(
        token_ids=np.concatenate([context, trajectory.token_ids]),
        mask=np.concatenate([np.zeros(len(context), dtype=bool), mask]),
        pg_weight=np.full(count, row.pg_weight),
        nll_weight=np.full(count, row.nll_weight),
        advantages=np.broadcast_to(np.asarray(row.credit, dtype=np.float32), count),
        sampled_logprobs=trajectory.logprobs[mask],
        old_logprobs=row.old_logprobs,
        reference_logprobs=row.reference_logprobs,
        versions=trajectory.versions[mask],
        guided=np.ones(count, dtype=bool) if row.is_guided else None,
    )


def trained_mask(trajectory: Trajectory, span: tuple[int, int] | None) -> Mask:
    """Which tokens of a trajectory are trained: those the policy sampled, within `span` (first, one past the last)."""
    if span is None:
        return trajectory.mask
    positions = np.arange(len(trajectory.mask))
    return trajectory.mask & (positions >= span[0]) & (positions < span[1])


def _sampled(row: Row, record: Any) -> tuple[Group, Trajectory]:
    if row.kind is not RowKind.DRAFT:
        return record, record.trajectories[row.index]
    draft: Draft = record[row.index]
    if draft.written is None:
        raise ValueError(f"draft of {draft.question.question_id} was skipped: {draft.state}")
    return draft.written, draft.written.trajectories[0]
