"""Calls to actors: typed like a call of the method itself, never without a deadline; a failure says who, why and
where the log is.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayError, RayTaskError

from mel_ray.actors.calls import CALLS
from mel_ray.actors.stacks import said_of
from mel_ray.records.incident import BrokenActor, LostActor, LostRecords, OutOfMemory, PoolError
from mel_ray.records.row import Ref

TAIL_LINES, TAIL_BYTES = 12, 1 << 16
SIGN_OF_LIFE = "sign of life"
WATCH = "watch"  # the calls of an actor that are answered while it works
WRITE = "write"  # those that put elsewhere what was copied before
WATCHED = ray.remote(concurrency_groups={WATCH: 1, WRITE: 2})


def log_tail(log: Path | None) -> str:
    """The last lines of an actor's log, indented, or nothing."""
    if log is None or not log.exists():
        return ""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - TAIL_BYTES))
        text = stream.read().decode(errors="replace")
    lines = [line[:300] for line in text.splitlines() if line.strip()]
    return "".join(f"\n    {line}" for line in lines[-TAIL_LINES:])


def _explain(
    error: BaseException, who: str, what: str, seconds: float, log: Path | None, place: str = "", stack: str = ""
) -> PoolError:
    label, where = f"{who}, {what}", f" Log: {log}" if log else ""
    if isinstance(error, TimeoutError | GetTimeoutError):
        doing = f"\n  It is at:{stack}" if stack else ""
        return LostActor(f"{label}: no answer within {seconds:g} s{place}.{where}{log_tail(log)}{doing}", log, who)
    if isinstance(error, RayTaskError):
        cause = error.cause if isinstance(error.cause, BaseException) else error
        if isinstance(cause, LostActor):
            return cause  # another actor, which this one was asking
        text = str(cause).strip().splitlines() or [type(cause).__name__]
        sentence = f"{label}: {type(cause).__name__}: {text[0][:300]}.{where}"
        if isinstance(cause, BrokenActor):
            return LostActor(sentence, log, who, isinstance(cause, OutOfMemory))
        return LostRecords(sentence, log) if isinstance(cause, ObjectLostError) else PoolError(sentence, log)
    if isinstance(error, RayActorError):
        has_died = not error.actor_init_failed  # which is an exception of its constructor
        return LostActor(f"{label}: its process died.{where}{log_tail(log)}", log, who, has_died=has_died)
    kind = LostRecords if isinstance(error, ObjectLostError) else PoolError
    return kind(f"{label}: {type(error).__name__}: {error}.{where}", log)


async def settle(ref: Any, who: str, what: str, seconds: float, log: Path | None = None, actor: Any = None) -> Any:
    """Await an answer of `actor` for at most `seconds`.

    Raises:
        LostActor: there will be none; with the last lines of `log`, and where its Python is, if that can be seen.
        PoolError: the answer is an error.
    """
    try:
        async with asyncio.timeout(seconds):
            return await ref
    except TimeoutError as error:
        place, stack = await said_of(actor) if actor is not None else ("", "")
        raise _explain(error, who, what, seconds, log, place, stack) from error
    except RayError as error:
        raise _explain(error, who, what, seconds, log) from error


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
            LostActor: no answer in time, or the actor died.
            PoolError: an exception.
        """
        ref = getattr(self.actor, method.__name__).remote(*arguments, **named)
        return await self._answer(ref, what or method.__name__, seconds)

    async def ask_stored(
        self,
        method: Callable[Concatenate[A, P], Awaitable[tuple[S, R]] | tuple[S, R]],
        seconds: float,
        what: str = "",
        /,
        *arguments: P.args,
        **named: P.kwargs,
    ) -> tuple[Ref, R]:
        """As `ask`, for a method that returns two values: the first stays in the object store, as a reference."""
        call = getattr(self.actor, method.__name__).options(num_returns=2)
        stored, answer = call.remote(*arguments, **named)
        return stored, await self._answer(answer, what or method.__name__, seconds)

    async def _answer(self, ref: Any, what: str, seconds: float) -> Any:
        if what == SIGN_OF_LIFE:  # it is no work
            return await settle(ref, self.name, what, seconds, self.log, self.actor)
        with CALLS.open(self.name, what, self.actor):
            return await settle(ref, self.name, what, seconds, self.log, self.actor)

    def kill(self) -> None:
        ray.kill(self.actor)
