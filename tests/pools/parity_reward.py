"""A reward that divides the answers of a model that knows nothing."""

from collections.abc import Sequence

from mel_ray.rewards.functions import Judgement, Response


def by_parity(responses: Sequence[Response]) -> list[Judgement]:
    """Right is a response of an even number of characters."""
    return [Judgement(len(one.response) % 2 == 0) for one in responses]
