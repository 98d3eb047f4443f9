"""Scores of an evaluation with their uncertainty: a bootstrap over questions, paired where models are compared."""

from collections.abc import Callable, Sequence
from math import comb

import numpy as np

from mel_ray.records.evaluation import Answered, QuestionResult
from mel_ray.records.trajectory import FinishReason
from mel_ray.records.verdict import Outcome

RESAMPLES = 2000
Score = Callable[[QuestionResult], float]


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the chance that k of n samples, c of them correct, hold a correct one
    (arXiv 2107.03374).

    Raises:
        ValueError: k is not in [1, n] or c not in [0, n].
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(f"pass@{k} of {correct} correct in {samples} samples")
    return 1.0 - comb(samples - correct, k) / comb(samples, k)


def question_scores(samples: int, ks: Sequence[int]) -> dict[str, Score]:
    """Score name -> its value on one question: `pass@1` greedy, `avg@n`, and `pass@k` for each k <= n samples."""
    scores: dict[str, Score] = {"pass@1": lambda result: float(result.greedy.correct > 0)}
    if samples:
        scores[f"avg@{samples}"] = lambda result: result.sampled.correct / result.sampled.count
        for k in ks:
            scores[f"pass@{k}"] = lambda result, k=k: pass_at_k(  # type: ignore[misc]
                result.sampled.count, result.sampled.correct, k
            )
    return scores


def _resampled_means(values: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)


def standard_error(values: Sequence[float], seed: int = 0) -> float:
    """Bootstrap standard error of the mean over questions; 0 for a single question."""
    return float(_resampled_means(np.asarray(values, dtype=float), seed).std()) if len(values) > 1 else 0.0


def paired_difference(first: Sequence[float], second: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean of second - first over the same questions, and its 95% bootstrap interval.

    Raises:
        ValueError: the two are not about the same questions, or about none.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"{len(first)} and {len(second)} questions cannot be paired")
    differences = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    low, high = np.quantile(_resampled_means(differences, seed), [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)


def summarise_results(results: Sequence[QuestionResult], samples: int, ks: Sequence[int]) -> dict[str, float]:
    """Means over questions, each followed by `<score>_se`, and shares and lengths over all answers."""
    summary: dict[str, float] = {}
    for name, score in question_scores(samples, ks).items():
        values = [score(result) for result in results]
        summary[name] = sum(values) / len(values)
        summary[f"{name}_se"] = standard_error(values)
    answers = [answered for result in results for answered in (result.greedy, result.sampled) if answered.count]
    return summary | _over_answers(answers)


def _over_answers(answers: Sequence[Answered]) -> dict[str, float]:
    outcomes = [outcome for answered in answers for outcome in answered.outcomes]
    reasons = [reason for answered in answers for reason in answered.finish_reasons]
    lengths = [length for answered in answers for length in answered.lengths]
    return {
        "truncated": sum(reason is FinishReason.LENGTH for reason in reasons) / len(reasons),
        "no_answer": sum(outcome is Outcome.NO_ANSWER for outcome in outcomes) / len(outcomes),
        "failed": sum(outcome in (Outcome.TIMEOUT, Outcome.ERROR) for outcome in outcomes) / len(outcomes),
        "tokens_mean": sum(lengths) / len(lengths),
        "tokens": float(sum(lengths)),
    }
