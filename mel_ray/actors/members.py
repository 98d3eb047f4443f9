"""The members of a pool that can be used. One that is lost is replaced while the others go on.

Concurrency: one task per member that is being replaced. Who needs a member when there is none waits for it; a failure
comes only when nobody is left to wait for.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

from mel_ray.actors.incidents import Incidents
from mel_ray.records.incident import IncidentKind, LostActor, NoRoom, PoolError
from mel_ray.records.problem import ConfigError

ATTEMPTS = 3
ROOM = 2.0  # seconds between two looks at the nodes
WATCHES = 3  # times within the seconds after which a silent member counts as hung


class Member(Protocol):
    """An actor of a pool, as its pool sees it."""

    @property
    def name(self) -> str: ...

    async def ready(self) -> None:
        """Wait until it can work."""
        ...

    async def ping(self, seconds: float) -> None:
        """
        Raises:
            LostActor: no sign of life within as many seconds.
        """
        ...

    def kill(self) -> None: ...


M = TypeVar("M", bound=Member)


class Members(Generic[M]):
    """`all` holds those that were started, the lost ones too; `healthy` those that can be used."""

    def __init__(
        self, name: str, count: int, start: Callable[[int], M], incidents: Incidents | None = None,
        changed: Callable[[], None] = lambda: None, has_node: Callable[[int], bool] = lambda number: True,
        patience: float = 600.0, heals: bool = True,
    ) -> None:  # fmt: skip
        """`changed` hears of every change of `healthy` or `failure`. `has_node`: whether the node of a member is there.
        A pool without any member waits so many seconds (`patience`) for a node that has room for one. Where it does not
        `heal`, the first loss is the pool's failure."""
        self._start, self.incidents, self._changed = start, incidents or Incidents(), changed
        self._has_node, self._patience, self._heals = has_node, patience, heals
        self._name = name
        self._members: dict[int, M] = {}
        self._waiting: dict[int, NoRoom] = {}  # those for which there was no room at the beginning
        for number in range(count):
            try:
                self._members[number] = start(number)
            except NoRoom as error:
                self._waiting[number] = error
        self.failure: PoolError | None = None
        self.serve: Callable[[M], Awaitable[None]] | None = None  # what a new member needs besides its start
        self._healing: dict[int, asyncio.Task[None]] = {}
        self._gone: set[int] = set()
        self._watch: asyncio.Task[None] | None = None
        self._turn = 0

    @property
    def all(self) -> list[M]:
        return list(self._members.values())

    @property
    def healthy(self) -> list[M]:
        away = self._gone | self._healing.keys()
        return [member for number, member in self._members.items() if number not in away]

    def is_healthy(self, member: M) -> bool:
        return any(one is member for one in self.healthy)

    async def ready(self) -> None:
        """Wait for those that have room; the others come when they have. One whose process dies meanwhile is replaced.

        Raises:
            PoolError: one cannot start.
        """
        for number, why in self._waiting.items():
            self._healing[number] = asyncio.create_task(self._heal(number, why))
        self._waiting.clear()
        await asyncio.gather(*map(self._begun, self.healthy))
        while not self.healthy and self._healing:
            await asyncio.wait(self._healing.values(), return_when=asyncio.FIRST_COMPLETED)
        if not self.healthy and self.failure:  # which is no accident, after so many starts
            raise PoolError(str(self.failure)) if self._heals else self.failure

    async def _begun(self, member: M) -> None:
        try:
            await member.ready()
        except LostActor as lost:
            if not lost.has_died:
                raise
            self.replace(member, lost)

    def watch(self, seconds: float) -> None:
        """From now on, a member that gives no sign of life for as many seconds is replaced."""
        self._watch = asyncio.create_task(self._watching(seconds))

    async def _watching(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds / WATCHES)
            await asyncio.gather(*(self.is_alive(member, seconds) for member in self.healthy))

    # -- for those who need one

    async def next(self) -> M:
        """The healthy members in turn; waits for one where there is none.

        Raises:
            PoolError: there will be none.
        """
        while not self.healthy:
            if self.failure:
                raise self.failure
            await asyncio.wait(self._healing.values(), return_when=asyncio.FIRST_COMPLETED)
        self._turn += 1
        return self.healthy[self._turn % len(self.healthy)]

    async def is_alive(self, member: M, seconds: float) -> bool:
        """Whether it gives a sign of life; if not, it is replaced. For those who lost another one just now: many may
        have died at once."""
        try:
            await member.ping(seconds)
        except LostActor as lost:
            self.replace(member, lost)
        except PoolError:
            pass  # it answers
        return self.is_healthy(member)

    # -- healing

    def replace(self, member: M, why: PoolError) -> None:
        """Start another one in its place; nothing happens where that has begun."""
        number = next((number for number, one in self._members.items() if one is member), None)
        if number is None or not self.is_healthy(member):
            return
        if not self._heals:
            self._gone, self.failure = set(self._members), why
            self._changed()
            return
        self._healing[number] = asyncio.create_task(self._heal(number, why))
        left = len(self.healthy)
        sentence, *log = str(why).splitlines()
        self.incidents.tell(IncidentKind.LOST, member.name, "\n".join([f"{sentence} Starting it again.", *log]))
        if not left:
            self.incidents.tell(IncidentKind.WAITING, member.name, "The pool has nobody else and waits for it.")
        self._changed()

    async def _heal(self, number: int, why: PoolError) -> None:
        began, name, was_there = time.monotonic(), f"{self._name}-{number}", number in self._members
        try:
            for attempt in range(ATTEMPTS):
                if number in self._members:
                    self._members[number].kill()
                try:
                    self._members[number] = await self._started(number)
                    await self._ready(number)
                    if self.serve:
                        await self.serve(self._members[number])
                    seconds = time.monotonic() - began
                    again = "again, " if was_there else ""
                    self.incidents.tell(IncidentKind.HEALED, name, f"It works {again}after {seconds:.1f} s.")
                    return
                except (PoolError, ConfigError) as error:
                    if isinstance(error, NoRoom):
                        why = error
                        break
                    why = error if isinstance(error, PoolError) else PoolError(f"{name}: {error}")
                    await asyncio.sleep(attempt)
            self._gone.add(number)
            what = "There was no room for it" if isinstance(why, NoRoom) else f"It was started {ATTEMPTS} times"
            self.incidents.tell(IncidentKind.GIVEN_UP, name, f"{what}: {why}")
            if not self.healthy and not self._healing.keys() - {number}:
                self.failure = why
        finally:
            del self._healing[number]
            self._changed()

    async def _started(self, number: int) -> M:
        """Waits for a node that has room, for as long as others can do the work.

        Raises:
            NoRoom: there is none, and no other member.
        """
        began, has_told = time.monotonic(), False
        while True:
            try:
                return self._start(number)
            except NoRoom as error:
                if not self.healthy and time.monotonic() - began > self._patience:
                    raise
                if not has_told:
                    text = f"{error}. It waits for a node that has."
                    self.incidents.tell(IncidentKind.WAITING, f"{self._name}-{number}", text)
                    has_told = True
                await asyncio.sleep(ROOM)

    async def _ready(self, number: int) -> None:
        """
        Raises:
            LostActor: its node is gone.
        """
        member = self._members[number]
        starting = asyncio.ensure_future(member.ready())
        try:
            while not starting.done():
                await asyncio.wait([starting], timeout=ROOM)
                if not starting.done() and not self._has_node(number):
                    raise LostActor(f"{member.name}, start: its node is gone", None, member.name)
            await starting
        finally:
            starting.cancel()

    def kill(self) -> None:
        tasks: list[asyncio.Task[Any]] = [*self._healing.values(), *([self._watch] if self._watch else [])]
        for task in tasks:
            task.cancel()
        for member in self.all:
            member.kill()
