"""The state after the last step, in memory (`checkpoint.shadow`): a policy that is lost goes on from there.

Each rank's part is in Ray's object store, which outlives the rank, though not its node; the driver's is here. Waits
for the ranks.
"""

import asyncio
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from mel_ray.records.incident import LostActor, PoolError
from mel_ray.records.ports import Shadowed
from mel_ray.records.row import Ref, Row


class State(Protocol):
    @property
    def step(self) -> int: ...


S = TypeVar("S", bound=State)
E = TypeVar("E")


class Entries(Protocol[E]):
    entries: list[E]


@dataclass(frozen=True, slots=True)
class Kept(Generic[S]):
    """`parts`: of each rank; `lessons`, `book`: entries of the memory and of the book."""

    state: S
    lessons: Sequence[tuple[int, Row]]
    book: Sequence[Any]
    parts: Sequence[Ref]


class Shadow(Generic[S]):
    """`kept` is the last state that is complete."""

    def __init__(
        self, ranks: Shadowed, memory: Entries[tuple[int, Row]], book: Entries[Any], not_kept: Callable[[str], None],
        kept: Kept[S] | None = None,
    ) -> None:  # fmt: skip
        """`not_kept` hears why a state is not; `kept`: one from before."""
        self._ranks, self._memory, self._book, self._not_kept, self.kept = ranks, memory, book, not_kept, kept
        self._packing: asyncio.Task[None] | None = None

    async def keep(self, state: S) -> None:
        """Copy everything; the copy is put into the object store later.

        Raises:
            LostActor: a rank is gone.
        """
        await self.finish()
        try:
            await self._ranks.shadow()
        except PoolError as error:
            self._give_up(state.step, error)
            return
        lessons, book = list(self._memory.entries), list(self._book.entries)
        self._packing = asyncio.create_task(self._pack(deepcopy(state), lessons, book))

    async def finish(self) -> None:
        """Wait until what was copied last is kept.

        Raises: as `keep`.
        """
        if self._packing is not None:
            task, self._packing = self._packing, None
            await task

    async def abandon(self) -> None:
        """Wait until what was copied last is kept, or cannot be any more."""
        if self._packing is not None:
            await asyncio.gather(self._packing, return_exceptions=True)
            self._packing = None

    async def _pack(self, state: S, lessons: Sequence[tuple[int, Row]], book: Sequence[Any]) -> None:
        try:
            self.kept = Kept(state, lessons, book, await self._ranks.pack())
        except PoolError as error:
            self._give_up(state.step, error)

    def _give_up(self, step: int, error: PoolError) -> None:
        """
        Raises:
            LostActor: that is the reason.
        """
        if isinstance(error, LostActor):
            raise error
        self._not_kept(f"the state after step {step} is not in memory: {error}")
