"""Where the time of a publish goes."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
AT_THE_SAME_TIME = "repack at the same time"  # on threads of its own, so no part of the sum


class Phases:
    """Seconds by name, since the last `clear`. A phase inside another counts in the inner one alone."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inner = 0.0

    def clear(self) -> None:
        self.seconds.clear()

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        outer, self._inner = self._inner, 0.0
        started = time.perf_counter()
        try:
            yield
        finally:
            passed = time.perf_counter() - started
            self.seconds[name] += passed - self._inner
            self._inner = outer + passed

    def waiting(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """The same items; the time to get each is measured."""
        iterator = iter(items)
        while True:
            with self.measure(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item
