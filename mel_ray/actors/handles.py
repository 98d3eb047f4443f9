"""Calls to actors: typed like a call of the method itself, never without a deadline; a failure says who, why and
where the log is.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from mel_ray.records.row import Ref

TAIL_LINES = 12


class PoolError(RuntimeError):
    """A pool could not do its work. The message is a sentence; `log` is the file that says more."""

    def __init__(self, message: str, log: Path | None = None) -> None:
        self.log = log
        super().__init__(message)


def log_tail(log: Path | None) -> str:
    """The last lines of an actor's log, indented, or nothing."""
    if log is None or not log.exists():
        return ""
    lines = [line[:300] for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return "".join(f"\n    {line}" for line in lines[-TAIL_LINES:])


def _explain(error: BaseException, label: str, seconds: float, log: Path | None) -> PoolError:
    where = f" Log: {log}" if log else ""
    if isinstance(error, TimeoutError | GetTimeoutError):
        return PoolError(f"{label}: no answer within {seconds:g} s.{where}", log)
    if isinstance(error, RayTaskError):
        cause = error.cause if isinstance(error.cause, BaseException) else error
        text = str(cause).strip().splitlines() or [type(cause).__name__]
        return PoolError(f"{label}: {type(cause).__name__}: {text[0][:300]}.{where}", log)
    if isinstance(error, RayActorError):
        return PoolError(f"{label}: its process died.{where}{log_tail(log)}", log)
    return PoolError(f"{label}: {type(error).__name__}: {error}.{where}", log)


async def settle(ref: Any, label: str, seconds: float, log: Path | None = None) -> Any:
    """Await an answer for at most `seconds`.

    Raises:
        PoolError: naming `label`, the cause, and the last lines of `log` if the actor died.
    """
    try:
        async with asyncio.timeout(seconds):
            return await ref
    except (TimeoutError, RayError) as error:
        raise _explain(error, label, seconds, log) from error


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
