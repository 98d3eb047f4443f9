"""Custom reward functions for the pool tests; they run in the verifier's child process."""

import time
from collections.abc import Sequence

from mel_ray.rewards.functions import Judgement, Response

SECONDS = 0.2


def slow(responses: Sequence[Response]) -> list[Judgement]:
    """All are right, after a while."""
    time.sleep(SECONDS)
    return [Judgement(True) for _ in responses]


def by_column(responses: Sequence[Response]) -> list[Judgement]:
    """Right where the dataset's row says so."""
    return [Judgement(one.columns["level"] == "easy", reason=one.columns["level"]) for one in responses]
