"""From a planned trajectory and its tokens to a training sequence."""

import numpy as np

from mel_ray.records.sequence import SequenceSpec, TrainSequence
from mel_ray.records.trajectory import Group


def trajectory_sequence(spec: SequenceSpec, group: Group) -> TrainSequence:
    """Prompt and completion of `group.trajectories[spec.index]`, the spec's weights on every completion token."""
    trajectory = group.trajectories[spec.index]
    count = len(trajectory.token_ids)
    return TrainSequence(
        token_ids=np.concatenate([group.prompt.token_ids, trajectory.token_ids]),
        completion_start=len(group.prompt.token_ids),
        pg_weight=np.full(count, spec.pg_weight),
        nll_weight=np.full(count, spec.nll_weight),
        advantages=np.full(count, spec.advantage),
        sampled_logprobs=trajectory.logprobs,
        kl_scale=spec.kl_scale,
    )
