"""Between exploring and learning: at most `capacity` batches are explored ahead of the one that is learned.

Waits for the explorer. With capacity 0 a batch is explored when the learner asks for it, by the very weights that are
then trained (on policy).
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mel_ray.driver.batches import Asked, Batches
from mel_ray.records.row import Explored


class Buffer:
    """`explored_in`: seconds from the start of the batch taken last to its close. `idle`: seconds in which the explorer
    had no room, between the last two calls of `take`."""

    def __init__(
        self, batches: Batches, capacity: int, last: int, closed: Callable[[int], None] = lambda step: None
    ) -> None:
        """`closed` hears of every step whose batch is complete."""
        self.batches, self._capacity, self._last, self._closed = batches, capacity, last, closed
        self._tasks: dict[int, asyncio.Task[tuple[list[Asked], float]]] = {}
        self._running, self._idle_since = 0, time.monotonic()
        self.start: Callable[..., asyncio.Task[Any]] = asyncio.create_task  # how an exploration is begun
        self.explored_in = self.idle = 0.0

    async def take(self, step: int) -> list[Explored]:
        """The batch of a step; from now on those after it may be explored, up to the last step."""
        now = time.monotonic()
        self.idle, self._idle_since = 0.0 if self._running else now - self._idle_since, now
        for ahead in range(step, max(step, min(step + self._capacity, self._last)) + 1):
            if ahead not in self._tasks:
                self._running += 1
                self._tasks[ahead] = self.start(self._explored(ahead))
        task = self._tasks.pop(step)
        try:
            batch, self.explored_in = await task
        except asyncio.CancelledError:
            task.cancel()
            raise
        return self.batches.hand_over(batch)

    async def _explored(self, step: int) -> tuple[list[Asked], float]:
        try:
            async with self.batches.turn:
                started = time.monotonic()
                batch = await self.batches.batch(step)
                self._closed(step)
                return batch, time.monotonic() - started
        finally:
            self._running -= 1
            self._idle_since = time.monotonic()

    @contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """What passes between two steps, an evaluation or a checkpoint, is no time in which the explorer lacks room."""
        started = time.monotonic()
        yield
        now = time.monotonic()
        self._idle_since = now if self._idle_since >= started else self._idle_since + now - started

    async def close(self) -> None:
        """Stop exploring; what is under way is given up."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        await self.batches.close()
