"""Waiting for actors: never without a deadline, and every failure says who, why and where its log is."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

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


async def settle(refs: Any, label: str, seconds: float, log: Path | None = None) -> Any:
    """Await one ref, or a sequence of refs together, for at most `seconds`.

    Raises:
        PoolError: naming `label`, the cause, and the last lines of `log` if the actor died.
    """

    async def one(ref: ray.ObjectRef) -> Any:
        return await ref

    many = isinstance(refs, Sequence)
    try:
        async with asyncio.timeout(seconds):
            if many:
                return await asyncio.gather(*map(one, refs))
            return await one(refs)
    except (TimeoutError, RayError) as error:
        raise _explain(error, label, seconds, log) from error
