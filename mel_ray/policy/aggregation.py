"""Loss aggregation: the weight of each token of a sequence, from global counts alone.

Because a weight depends only on the whole (mini-)batch, the loss is the plain sum of weight * token loss and
does not change with the split into microbatches or ranks. Throughout, `lengths` are the trained tokens of all N
sequences and `max_tokens` is the constant L; a sequence without trained tokens counts in N. No sequences give an empty
list.
"""

from collections.abc import Callable, Sequence

Aggregation = Callable[[Sequence[int], int], list[float]]


def token_mean(lengths: Sequence[int], max_tokens: int) -> list[float]:
    """1 / sum |y| (DAPO)."""
    total = max(1, sum(lengths))
    return [1.0 / total for _ in lengths]


def seq_mean_token_mean(lengths: Sequence[int], max_tokens: int) -> list[float]:
    """1 / (N |y_i|) (GRPO; MEL Eq. 10)."""
    count = len(lengths)
    return [1.0 / (count * max(1, length)) for length in lengths]


def seq_mean_token_sum(lengths: Sequence[int], max_tokens: int) -> list[float]:
    """1 / N."""
    return [1.0 / len(lengths) for _ in lengths]


def dr_grpo(lengths: Sequence[int], max_tokens: int) -> list[float]:
    """1 / (N L) (arXiv 2503.20783)."""
    return [1.0 / (len(lengths) * max_tokens) for _ in lengths]
