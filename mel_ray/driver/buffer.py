"""Between exploring and learning: batches that were explored and not yet learned from.

Waits for the explorer. With capacity 0 nothing is explored ahead: a batch is explored when the learner asks for it,
by the very weights that are then trained (on policy).
"""

from collections.abc import Awaitable, Callable

from mel_ray.records.row import Explored

Explore = Callable[[int], Awaitable[list[Explored]]]


class Buffer:
    def __init__(self, explore: Explore) -> None:
        self._explore = explore

    async def take(self, step: int) -> list[Explored]:
        """The batch of a step."""
        return await self._explore(step)
