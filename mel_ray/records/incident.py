"""What went wrong in a run: with an actor, or with what it was asked."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class IncidentKind(StrEnum):
    LOST = "lost"  # an actor's process died or hung
    HEALED = "healed"  # another one has taken its place
    GIVEN_UP = "given up"  # none could; the pool goes on without it
    WAITING = "waiting"  # a pool has nobody left, or a step makes no progress
    QUARANTINED = "quarantined"  # a question that two actors did not survive
    REWOUND = "rewound"  # the policy goes on from an older checkpoint
    SKIPPED = "skipped"  # an update that would have damaged the policy
    NOT_SAVED = "not saved"  # a checkpoint


@dataclass(frozen=True, slots=True)
class Incident:
    """`text` is a sentence or two, and then perhaps lines of a log; `who` an actor, a pool or a question."""

    kind: IncidentKind
    who: str
    text: str


@dataclass(frozen=True, slots=True)
class Losses:
    """Counts since they were last asked for. `asked_again`: requests to an actor that was lost, in sequences."""

    restarts: int = 0
    asked_again: int = 0
    quarantined: int = 0


class PoolError(RuntimeError):
    """A pool could not do its work. The message is a sentence; `log` is the file that says more."""

    def __init__(self, message: str, log: Path | None = None) -> None:
        self.log = log
        super().__init__(message)


class LostActor(PoolError):
    """An actor can do no more work: its process died, gives no answer, or says so itself. `who` is its name,
    `is_full`: the memory of its device did not suffice; `has_died`: its process was there and is not any more."""

    def __init__(
        self, message: str, log: Path | None = None, who: str = "", is_full: bool = False, has_died: bool = False
    ) -> None:
        self.who, self.is_full, self.has_died = who, is_full, has_died
        super().__init__(message, log)


class NoRoom(PoolError):
    """No node has room for an actor; one that joins may."""


class LostRecords(PoolError):
    """Records were on a node that is gone."""


class BrokenActor(RuntimeError):
    """Raised inside an actor that can do no more work, so that it is replaced."""


class OutOfMemory(BrokenActor):
    """The memory of the actor's device does not suffice for what it was asked."""


SURVIVORS = 2  # actors that a request may lose before it is its own fault


class Poison(RuntimeError):
    """What was asked ended two actors one after another; the message is a sentence."""
