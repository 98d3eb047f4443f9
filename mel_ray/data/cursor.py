"""The order of questions: a seeded shuffle per epoch with an exact position, whatever takes from it."""

from functools import lru_cache
from random import Random


@lru_cache(maxsize=2)
def epoch_order(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The permutation of `range(count)` in which an epoch visits the questions."""
    order = list(range(count))
    Random(f"order:{seed}:{epoch}").shuffle(order)
    return tuple(order)


class Cursor:
    """Walks epoch after epoch; `position` alone restores it."""

    def __init__(self, count: int, seed: int, position: int = 0) -> None:
        """
        Raises:
            ValueError: there is nothing to walk over.
        """
        if count < 1:
            raise ValueError("a cursor needs at least one question")
        self._count, self._seed, self.position = count, seed, position

    def take(self, count: int) -> list[int]:
        """The next `count` indices; those that would straddle two epochs start the next one, so that nothing repeats
        (unless `count` is more than an epoch holds)."""
        left = self._count - self.position % self._count
        if left < count <= self._count:
            self.position += left
        taken = []
        for position in range(self.position, self.position + count):
            epoch, offset = divmod(position, self._count)
            taken.append(epoch_order(self._count, self._seed, epoch)[offset])
        self.position += count
        return taken
