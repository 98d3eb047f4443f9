"""Unbiased pass@k."""

from math import comb


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the chance that k of n samples, c of them correct, hold a correct one
    (arXiv 2107.03374).

    Raises:
        ValueError: k is not in [1, n] or c not in [0, n].
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(f"pass@{k} of {correct} correct in {samples} samples")
    return 1.0 - comb(samples - correct, k) / comb(samples, k)
