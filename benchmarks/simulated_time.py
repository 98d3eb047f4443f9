"""An event loop without waiting: where nothing is ready, its clock jumps to the next timer."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar
from unittest.mock import patch

T = TypeVar("T")


class Stuck(RuntimeError):
    """Everyone waits for someone else."""


class _Jumping(selectors.SelectSelector):
    """Watches no file; waiting moves `now` on, in seconds."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck("nothing is ready and no timer is set: everyone waits for someone else")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is virtual. No threads, sockets or processes."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def simulate(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in virtual time; `time.monotonic` shows that time too.

    Raises:
        Stuck: it would never end.
    """
    loop = VirtualLoop()
    with patch("time.monotonic", loop.time), asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main)
