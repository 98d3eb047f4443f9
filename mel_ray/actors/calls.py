"""The calls to actors that are not answered yet, and the watchdog that tells when none is answered any more."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mel_ray.actors.incidents import Incidents
from mel_ray.actors.stacks import said_of
from mel_ray.records.incident import IncidentKind

LISTED = 5


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    who: str
    what: str
    since: float
    actor: Any


class Calls:
    """Those of this process."""

    def __init__(self) -> None:
        self._open: dict[int, Call] = {}
        self.answered_at = time.monotonic()

    @contextmanager
    def open(self, who: str, what: str, actor: Any) -> Iterator[None]:
        call = Call(who, what, time.monotonic(), actor)
        self._open[id(call)] = call
        try:
            yield
        finally:
            del self._open[id(call)]
            self.answered_at = time.monotonic()

    def oldest(self) -> list[Call]:
        return sorted(self._open.values(), key=lambda call: call.since)


CALLS = Calls()


async def watch_progress(seconds: float, incidents: Incidents, calls: Calls = CALLS) -> None:
    """Tell, once in as many seconds, that no actor has answered for so long: who is waited for, and what the one that
    has been waited for longest is doing. Never ends."""
    calls.answered_at = told_at = time.monotonic()
    while True:
        await asyncio.sleep(seconds / 4)
        now = time.monotonic()
        if now - max(calls.answered_at, told_at) < seconds:
            continue
        told_at = now
        open_calls = calls.oldest()
        said = [f"{call.who}, {call.what} ({now - call.since:.0f} s)" for call in open_calls[:LISTED]]
        more = f" and {len(open_calls) - LISTED} more" if len(open_calls) > LISTED else ""
        waits = f"Waiting for {'; '.join(said)}{more}." if said else "It waits for no actor."
        where, stack = await said_of(open_calls[0].actor) if open_calls else ("", "")
        of = f" The first of them{where} is at:{stack}" if stack else ""
        text = f"No actor has answered for {now - calls.answered_at:.0f} s. {waits}{of}"
        incidents.tell(IncidentKind.WAITING, "run", text)
