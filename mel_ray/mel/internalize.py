"""Internalisation: a lesson as a training sequence whose context carries no loss (MEL Eq. 7)."""

import numpy as np

from mel_ray.records.arrays import TokenIds
from mel_ray.records.experience import Draft
from mel_ray.records.sequence import SequenceSpec, TrainSequence
from mel_ray.records.trajectory import Group, Trajectory


def lesson_sequence(spec: SequenceSpec, source: Draft | Group, context: Group | None = None) -> TrainSequence:
    """A context and then exactly the tokens the policy sampled; NLL weight on the tokens of `spec.span` alone.

    `source` is the draft whose M* is learned, or the group of replays of which number `spec.index` is. The
    context is the prompt of `context`, by default the one the tokens were sampled behind: [I, x, y+, y-] for M*.

    Raises:
        ValueError: the draft was never written.
    """
    sampled_behind, sampled = _sampled(spec, source)
    behind = sampled_behind if context is None else context.prompt.token_ids
    count = len(sampled.token_ids)
    start, end = spec.span or (0, count)
    nll_weight = np.zeros(count, dtype=np.float32)
    nll_weight[start:end] = spec.nll_weight
    return TrainSequence(
        token_ids=np.concatenate([behind, sampled.token_ids]),
        completion_start=len(behind),
        pg_weight=np.zeros(count, dtype=np.float32),
        nll_weight=nll_weight,
        advantages=np.zeros(count, dtype=np.float32),
        sampled_logprobs=sampled.logprobs,
    )


def _sampled(spec: SequenceSpec, source: Draft | Group) -> tuple[TokenIds, Trajectory]:
    if isinstance(source, Group):
        return source.prompt.token_ids, source.trajectories[spec.index]
    if source.written is None:
        raise ValueError(f"draft of {source.question_id} was skipped: {source.state}")
    return source.written.prompt.token_ids, source.written.trajectories[0]
