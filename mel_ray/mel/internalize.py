"""Internalisation: M* as a training sequence whose context carries no loss (MEL Eq. 7)."""

import numpy as np

from mel_ray.records.experience import Draft
from mel_ray.records.sequence import SequenceSpec, TrainSequence


def lesson_sequence(spec: SequenceSpec, draft: Draft) -> TrainSequence:
    """[I, x, y+, y-] then M*, exactly the tokens the policy sampled; NLL weight on the tokens of M* alone.

    Raises:
        ValueError: the draft was never written.
    """
    if draft.written is None:
        raise ValueError(f"draft of {draft.question_id} was skipped: {draft.state}")
    context, written = draft.written.prompt.token_ids, draft.written.trajectories[0]
    count = len(written.token_ids)
    return TrainSequence(
        token_ids=np.concatenate([context, written.token_ids]),
        completion_start=len(context),
        pg_weight=np.full(count, spec.pg_weight),
        nll_weight=np.full(count, spec.nll_weight),
        advantages=np.zeros(count, dtype=np.float32),
        sampled_logprobs=written.logprobs,
    )
