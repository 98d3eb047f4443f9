"""Loss aggregation: the weight of each token of a sequence, from global counts alone.

Because a weight depends only on the whole (mini-)batch, the loss is the plain sum of weight * token loss and
does not change with the split into microbatches or ranks.
"""

from collections.abc import Sequence
from typing import Literal

Aggregation = Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "dr_grpo"]


def token_weights(lengths: Sequence[int], aggregation: Aggregation, max_tokens: int) -> list[float]:
    """Weight of every token of each sequence; `lengths`: completion tokens of all N sequences.

    - token_mean: 1 / sum |y| (DAPO)
    - seq_mean_token_mean: 1 / (N |y_i|) (GRPO; MEL Eq. 10)
    - seq_mean_token_sum: 1 / N
    - dr_grpo: 1 / (N L) with the constant L = `max_tokens` (arXiv 2503.20783)

    Failure case: no sequences give an empty list.
    """
    count, total = len(lengths), sum(lengths)
    match aggregation:
        case "token_mean":
            return [1.0 / total for _ in lengths]
        case "seq_mean_token_mean":
            return [1.0 / (count * length) for length in lengths]
        case "seq_mean_token_sum":
            return [1.0 / count for _ in lengths]
        case "dr_grpo":
            return [1.0 / (count * max_tokens) for _ in lengths]
