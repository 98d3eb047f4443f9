"""Stops a run whose verifier fails too often: rewards that are mostly missing teach nothing, or the wrong thing."""

from collections import deque
from collections.abc import Sequence

from mel_ray.records.row import Explored, attempts
from mel_ray.records.verdict import Verdict

WINDOW = 1000
ENOUGH = 64


class VerifierFailure(RuntimeError):
    """Too many judgements ended as timeout or error; the message is a sentence with three examples."""


class FailureGuard:
    """Watches the share of `timeout` and `error` among the last judgements (at most 1000, at least 64)."""

    def __init__(self, max_failure_rate: float) -> None:
        self._limit = max_failure_rate
        self._recent: deque[Verdict] = deque(maxlen=WINDOW)

    def watch(self, explored: Sequence[Explored]) -> None:
        """
        Raises:
            VerifierFailure: the share of failed judgements is above the limit.
        """
        self._recent.extend(row.verdict for one in explored for row in attempts(one) if row.verdict)
        failed = [verdict for verdict in self._recent if verdict.has_failed]
        if len(self._recent) < ENOUGH or len(failed) <= self._limit * len(self._recent):
            return
        examples = "; ".join(f"{v.outcome} ({v.reason}) on {(v.extracted or '')[-80:]!r}" for v in failed[-3:])
        raise VerifierFailure(
            f"the verifier failed on {len(failed)} of the last {len(self._recent)} answers, more than "
            f"reward.max_failure_rate={self._limit:g}: {examples}"
        )
