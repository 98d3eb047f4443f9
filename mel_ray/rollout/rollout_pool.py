"""The rollout pool as the driver sees it: Y ~ pi(. | x) on lent engines; and all engines of a run as one."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

from mel_ray.records import ports
from mel_ray.records.incident import IncidentKind, Poison, PoolError
from mel_ray.records.ports import Turn
from mel_ray.records.row import Ref, Row
from mel_ray.records.trajectory import Prompt, Sampling
from mel_ray.rollout.engine_pool import Engine, EngineActor, EnginePool

T = TypeVar("T")


class RolloutPool:
    """Y ~ pi(. | x) on lent engines."""

    def __init__(self, engines: EnginePool, seconds: float) -> None:
        self._engines, self._seconds = engines, seconds

    async def generate(self, prompt: Prompt, sampling: Sampling, turn: Turn = Turn.NEW) -> tuple[Row, ...]:
        what = f"rollout of question {prompt.question_id}"

        def ask(engine: Engine) -> Awaitable[tuple[Ref, tuple[Row, ...]]]:
            return engine.handle.ask_stored(EngineActor.generate, self._seconds, what, prompt, sampling)

        try:
            ref, rows = await self._engines.on_engine(sampling.count, turn, ask)
        except Poison as poison:
            text = f"Two engines were lost over it, and it is left out. {poison} The question: {prompt.question.text}"
            self._engines.members.incidents.tell(IncidentKind.QUARANTINED, f"question {prompt.question_id}", text)
            raise
        return tuple(replace(row, ref=ref) for row in rows)


class AllEngines:
    """Every engine of every pool, for the publisher and for metrics."""

    def __init__(self, pools: Sequence[EnginePool], tensor_parallel: int = 1) -> None:
        self._pools, self._devices, self._since = tuple(pools), tensor_parallel, time.monotonic()

    @property
    def engines(self) -> list[Engine]:
        """Those that can be used."""
        return [engine for pool in self._pools for engine in pool.engines]

    def serve_with(self, serve: Callable[[ports.Engine], Awaitable[None]]) -> None:
        """How an engine that replaces another one gets its weights."""
        for pool in self._pools:
            pool.members.serve = serve

    async def drain(self) -> None:
        await asyncio.gather(*(pool.drain() for pool in self._pools))

    async def pause(self) -> None:
        await asyncio.gather(*(pool.pause() for pool in self._pools))

    async def resume(self) -> None:
        await asyncio.gather(*(pool.resume() for pool in self._pools))

    async def sleep(self) -> None:
        """Leave the GPUs to the policy."""
        await self._on_each(lambda engine: engine.sleep())

    async def wake(self, part: Literal["weights", "kv_cache"]) -> None:
        await self._on_each(lambda engine: engine.wake(part))

    async def abort(self) -> None:
        """End every request; nobody waits for them any more."""
        await self._on_each(lambda engine: engine.abort())

    async def measures(self) -> dict[str, float]:
        """Means over engines of the time since the last call: share with work, share paused, tokens per second and
        device; and the tokens computed again because an update cleared the cache under them."""
        now, before = time.monotonic(), self._since
        self._since = now
        clocks = await self._on_each(lambda engine: engine.take_counts())
        seconds = max(1e-9, (now - before) * len(clocks))
        sampled = sum(clock.sampled_tokens for clock in clocks)
        measures = {
            "engine/busy_share": min(1.0, sum(clock.busy_seconds for clock in clocks) / seconds),
            "speed/explore_tokens": sampled / seconds / self._devices,
        }
        if any(clock.paused_seconds for clock in clocks):
            measures["engine/paused_share"] = min(1.0, sum(clock.paused_seconds for clock in clocks) / seconds)
            measures["engine/recomputed_tokens"] = float(sum(clock.recomputed_tokens for clock in clocks))
        return measures

    async def _on_each(self, ask: Callable[[Engine], Awaitable[T]]) -> list[T]:
        return [one for given in await asyncio.gather(*(pool.on_each(ask) for pool in self._pools)) for one in given]

    def replace(self, engine: ports.Engine, why: Exception) -> None:
        """Start another one in the place of one that must not be used any more."""
        for pool in self._pools:
            for one in pool.members.all:
                if one is engine:
                    pool.members.replace(one, why if isinstance(why, PoolError) else PoolError(str(why)))
