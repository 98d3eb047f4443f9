"""What stops a run before it wastes more: a verifier that fails, and updates that are skipped again and again."""

from collections import deque
from collections.abc import Sequence

from mel_ray.records.incident import IncidentKind, PoolError
from mel_ray.records.ports import Health
from mel_ray.records.problem import counted
from mel_ray.records.reports import UpdateReport
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


def refuse_poison_alone(step: int, explored: Sequence[Explored]) -> None:
    """
    Raises:
        PoolError: no question of a batch was survived, so it is not the questions.
    """
    if explored and not any(explored):
        what = counted(len(explored), "question")
        raise PoolError(f"step {step}: {what}, and each of them ended two engines one after the other")


class Diverged(RuntimeError):
    """One update after the other had to be skipped; the message is a sentence."""


class SkipGuard:
    """Counts the training steps in a row of which an update was skipped."""

    def __init__(self, limit: int, health: Health | None = None) -> None:
        self._limit, self._health, self._steps = limit, health, 0

    def watch(self, step: int, update: UpdateReport) -> None:
        """
        Raises:
            Diverged: there are too many of them.
        """
        if not update.optimizer_steps:
            return
        self._steps = self._steps + 1 if update.skipped else 0
        if not update.skipped:
            return
        what = f"step {step}: {update.skipped} of {counted(update.optimizer_steps, 'update')} skipped, because"
        why = "the gradient was not finite, or larger than algorithm.skip_grad_norm"
        if self._health:
            self._health.tell(IncidentKind.SKIPPED, "policy", f"{what} {why}.")
        if self._steps >= self._limit:
            raise Diverged(
                f"{what} {why}. That is so since {counted(self._steps, 'step')} (algorithm.max_skipped). No "
                "skipped update is in the last checkpoint; go on from it with a lower algorithm.lr or max_grad_norm"
            )
