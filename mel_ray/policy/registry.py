"""The names of this room that have an implementation each: estimators (`algorithm.advantage`) and aggregations."""

from mel_ray.policy.aggregation import Aggregation, dr_grpo, seq_mean_token_mean, seq_mean_token_sum, token_mean
from mel_ray.policy.algorithms.algorithm import Algorithm
from mel_ray.policy.algorithms.batch_whitened import BatchWhitened
from mel_ray.policy.algorithms.correct_only import CorrectOnly
from mel_ray.policy.algorithms.group_centred import GroupCentred
from mel_ray.policy.algorithms.group_standardised import GroupStandardised
from mel_ray.policy.algorithms.leave_one_out import LeaveOneOut

ALGORITHMS: dict[str, Algorithm] = {
    "group_standardised": GroupStandardised(),
    "group_centred": GroupCentred(),
    "leave_one_out": LeaveOneOut(),
    "batch_whitened": BatchWhitened(),
    "group_centred_batch_whitened": BatchWhitened(has_baseline=True),
    "correct_only": CorrectOnly(),
}

AGGREGATIONS: dict[str, Aggregation] = {
    "token_mean": token_mean,
    "seq_mean_token_mean": seq_mean_token_mean,
    "seq_mean_token_sum": seq_mean_token_sum,
    "dr_grpo": dr_grpo,
}
