"""The members of a pool that can be used. One that is lost is replaced while the others go on.

Concurrency: one task per member that is being replaced. Who needs a member when there is none waits for it; a failure
comes only when nobody is left to wait for.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

from mel_ray.actors.incidents import Incidents
from mel_ray.records.incident import IncidentKind, LostActor, PoolError
from mel_ray.records.problem import ConfigError

ATTEMPTS = 3
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
    """`all` holds a member for every number, the lost ones too; `healthy` those that can be used."""

    def __init__(
        self, count: int, start: Callable[[int], M], incidents: Incidents | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """`changed` hears of every change of `healthy` or `failure`."""
        self._start, self.incidents, self._changed = start, incidents or Incidents(), changed
        self.all = [start(number) for number in range(count)]
        self.failure: PoolError | None = None
        self.serve: Callable[[M], Awaitable[None]] | None = None  # what a new member needs besides its start
        self._healing: dict[int, asyncio.Task[None]] = {}
        self._gone: set[int] = set()
        self._watch: asyncio.Task[None] | None = None
        self._turn = 0

    @property
    def healthy(self) -> list[M]:
        away = self._gone | self._healing.keys()
        return [member for number, member in enumerate(self.all) if number not in away]

    def is_healthy(self, member: M) -> bool:
        return any(one is member for one in self.healthy)

    async def ready(self) -> None:
        await asyncio.gather(*(member.ready() for member in self.all))

    def watch(self, seconds: float) -> None:
        """From now on, a member that gives no sign of life for as many seconds is replaced."""
        self._watch = asyncio.create_task(self._watching(seconds))

    async def _watching(self, seconds: float) -> None:
        async def look(member: M) -> None:
            try:
                await member.ping(seconds)
            except LostActor as lost:
                self.replace(member, lost)
            except PoolError:
                pass  # it answers; whoever asks it for work will hear what is wrong

        while True:
            await asyncio.sleep(seconds / WATCHES)
            await asyncio.gather(*(look(member) for member in self.healthy))

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

    # -- healing

    def replace(self, member: M, why: PoolError) -> None:
        """Start another one in its place; nothing happens where that has begun."""
        number = next((number for number, one in enumerate(self.all) if one is member), None)
        if number is None or not self.is_healthy(member):
            return
        self._healing[number] = asyncio.create_task(self._heal(number, why))
        left = len(self.healthy)
        sentence, *log = str(why).splitlines()
        self.incidents.tell(IncidentKind.LOST, member.name, "\n".join([f"{sentence} Starting it again.", *log]))
        if not left:
            self.incidents.tell(IncidentKind.WAITING, member.name, "The pool has nobody else and waits for it.")
        self._changed()

    async def _heal(self, number: int, why: PoolError) -> None:
        began, name = time.monotonic(), self.all[number].name
        try:
            for attempt in range(ATTEMPTS):
                self.all[number].kill()
                try:
                    self.all[number] = self._start(number)
                    await self.all[number].ready()
                    if self.serve:
                        await self.serve(self.all[number])
                    seconds = time.monotonic() - began
                    self.incidents.tell(IncidentKind.HEALED, name, f"It works again, after {seconds:.1f} s.")
                    return
                except (PoolError, ConfigError) as error:
                    why = error if isinstance(error, PoolError) else PoolError(f"{name}: {error}")
                    await asyncio.sleep(attempt)
            self._gone.add(number)
            self.incidents.tell(IncidentKind.GIVEN_UP, name, f"It was started {ATTEMPTS} times: {why}")
            if len(self._gone) == len(self.all):
                self.failure = why
        finally:
            del self._healing[number]
            self._changed()

    def kill(self) -> None:
        tasks: list[asyncio.Task[Any]] = [*self._healing.values(), *([self._watch] if self._watch else [])]
        for task in tasks:
            task.cancel()
        for member in self.all:
            member.kill()
