"""Typed handles to actors: a call is checked like a call of the method itself, and never waits without a deadline."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

import ray

from mel_ray.actors.waiting import settle
from mel_ray.records.row import Ref

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


def stored(ref: Ref | None, kind: type[S]) -> S:
    """A reference as an argument of a call: Ray hands the actor the record itself, which is a `kind`."""
    return cast(S, ref)


@dataclass(frozen=True, slots=True)
class Handle(Generic[A]):
    """One actor of class `A` (or of a class that implements the protocol `A`)."""

    name: str  # as errors call it
    actor: Any
    log: Path | None = None

    @overload
    async def ask(
        self,
        method: Callable[Concatenate[A, P], Awaitable[R]],
        seconds: float,
        what: str = "",
        /,
        *arguments: P.args,
        **named: P.kwargs,
    ) -> R: ...

    @overload
    async def ask(
        self,
        method: Callable[Concatenate[A, P], R],
        seconds: float,
        what: str = "",
        /,
        *arguments: P.args,
        **named: P.kwargs,
    ) -> R: ...

    async def ask(self, method: Any, seconds: float, what: str = "", /, *arguments: Any, **named: Any) -> Any:
        """Call `method` on the actor and wait for its answer at most `seconds`; `what` names the work in errors.

        Raises:
            PoolError: no answer in time, an exception, or the actor died.
        """
        ref = getattr(self.actor, method.__name__).remote(*arguments, **named)
        return await settle(ref, self._label(what or method.__name__), seconds, self.log)

    async def ask_stored(
        self,
        method: Callable[Concatenate[A, P], Awaitable[tuple[S, R]]],
        seconds: float,
        what: str = "",
        /,
        *arguments: P.args,
        **named: P.kwargs,
    ) -> tuple[Ref, R]:
        """As `ask`, for a method that returns two values: the first stays in the object store, as a reference."""
        call = getattr(self.actor, method.__name__).options(num_returns=2)
        stored, answer = call.remote(*arguments, **named)
        return stored, await settle(answer, self._label(what or method.__name__), seconds, self.log)

    def _label(self, what: str) -> str:
        return f"{self.name}, {what}"

    def kill(self) -> None:
        ray.kill(self.actor)
