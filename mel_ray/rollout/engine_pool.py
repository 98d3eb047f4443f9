"""The rollout pool: one actor per engine, lent to those who sample, the least loaded one first.

Consumes prompts, produces rows whose groups are in the object store. A call waits for its own completions only, so the
questions of one step share the engine's continuous batch with each other and with the experience pool's requests. An
engine is handed at most twice as many sequences as it can run at once; the rest waits here, where no deadline counts.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from mel_ray.actors.handles import Handle, PoolError
from mel_ray.actors.process import CPU_ENGINE_ENV, ENGINE_ENV, redirect_output, runtime_env
from mel_ray.config.cluster import DeadlineConfig
from mel_ray.config.plan import PoolPlan
from mel_ray.config.schema import ClusterConfig, ModelConfig
from mel_ray.data.chat import ChatTokenizer
from mel_ray.records import ports
from mel_ray.records.row import Row, rows_of_group
from mel_ray.records.trajectory import Group, Prompt, Sampling
from mel_ray.rollout.vllm_engine import EngineSettings, VllmEngine

HANDED_OUT = 2  # times what an engine can run at once, so that it can fill every slot as soon as a sequence ends


class EngineActor:
    """One vLLM engine with the tokenizer that turns its tokens into text."""

    def __init__(self, settings: EngineSettings, model: ModelConfig, log: Path | None) -> None:
        redirect_output(log)
        tokenizer = ChatTokenizer(settings.model, model)
        self._engine = VllmEngine(settings, tokenizer.decode, tokenizer.stop_ids)

    async def ready(self) -> None:
        return None

    async def generate(self, prompt: Prompt, sampling: Sampling) -> tuple[Group, tuple[Row, ...]]:
        """Y ~ pi(. | x): the group for the object store, and its rows for the driver."""
        group = Group(prompt, await self._engine.sample(prompt.token_ids, sampling))
        return group, rows_of_group(group)

    async def connect_weights(self, info: dict[str, Any]) -> None:
        await self._engine.connect_weights(info)

    async def disconnect_weights(self) -> None:
        await self._engine.disconnect_weights()

    async def begin_update(self) -> None:
        await self._engine.begin_update()

    async def receive(self, info: dict[str, Any]) -> None:
        await self._engine.receive(info)

    async def finish_update(self, version: int) -> str:
        return await self._engine.finish_update(version)

    async def take_busy_seconds(self) -> float:
        return self._engine.take_busy_seconds()


class Engine:
    """A handle to one engine, with the deadline of every call; `running` counts the sequences it was handed."""

    def __init__(self, handle: Handle[EngineActor], deadlines: DeadlineConfig) -> None:
        self.handle, self._deadlines, self.running = handle, deadlines, 0

    @property
    def name(self) -> str:
        return self.handle.name

    @property
    def log(self) -> Path | None:
        return self.handle.log

    @property
    def sampler(self) -> Handle[Any]:
        return self.handle

    async def ready(self) -> None:
        await self.handle.ask(EngineActor.ready, self._deadlines.start, "start")

    async def connect_weights(self, info: dict[str, Any]) -> None:
        await self.handle.ask(EngineActor.connect_weights, self._deadlines.start, "", info)

    async def disconnect_weights(self) -> None:
        await self.handle.ask(EngineActor.disconnect_weights, self._deadlines.publish)

    async def begin_update(self) -> None:
        await self.handle.ask(EngineActor.begin_update, self._deadlines.publish)

    async def receive(self, info: dict[str, Any]) -> None:
        await self.handle.ask(EngineActor.receive, self._deadlines.publish, "", info)

    async def finish_update(self, version: int) -> str:
        return await self.handle.ask(EngineActor.finish_update, self._deadlines.publish, "", version)

    async def take_busy_seconds(self) -> float:
        return await self.handle.ask(EngineActor.take_busy_seconds, self._deadlines.judge)


class EnginePool:
    """As many engines as the plan says."""

    def __init__(
        self, plan: PoolPlan, settings: EngineSettings, model: ModelConfig, cluster: ClusterConfig, logs: Path | None
    ) -> None:
        self._plan, self._settings, self._model, self._cluster, self._logs = plan, settings, model, cluster, logs
        self._turn, self._room = asyncio.Lock(), asyncio.Condition()
        self._since = time.monotonic()
        self.engines = [self._start(index) for index in range(plan.actors)]

    def _start(self, index: int) -> Engine:
        plan, is_cpu = self._plan, self._cluster.device == "cpu"
        name = f"{plan.name}-{index}"
        log = self._logs / f"{name}.log" if self._logs else None
        environment = runtime_env(ENGINE_ENV, CPU_ENGINE_ENV if is_cpu else {}, threads=plan.threads)
        actor = ray.remote(EngineActor).options(
            num_cpus=plan.cpus, num_gpus=plan.gpus, max_concurrency=10_000, runtime_env=environment
        )
        handle: Handle[EngineActor] = Handle(name, actor.remote(self._settings, self._model, log), log)
        return Engine(handle, self._cluster.deadlines)

    async def ready(self) -> None:
        """Wait until every engine has loaded its model."""
        await asyncio.gather(*(engine.ready() for engine in self.engines))

    @asynccontextmanager
    async def lease(self, sequences: int) -> AsyncIterator[Engine]:
        """The least loaded engine, once it has room for as many sequences (or has nothing to do at all).

        First come, first served: while one waits for room, those who came later wait for their turn.
        """
        async with self._turn, self._room:
            await self._room.wait_for(lambda: self._has_room(self._least_loaded(), sequences))
            engine = self._least_loaded()
            engine.running += sequences
        try:
            yield engine
        finally:
            async with self._room:
                engine.running -= sequences
                self._room.notify_all()

    def _least_loaded(self) -> Engine:
        return min(self.engines, key=lambda engine: engine.running)

    def _has_room(self, engine: Engine, sequences: int) -> bool:
        return not engine.running or engine.running + sequences <= HANDED_OUT * self._cluster.rollout.max_sequences

    async def restart(self, engine: ports.Engine) -> None:
        """Replace an engine that must not be used any more; the new one still needs weights."""
        index = next(number for number, one in enumerate(self.engines) if one is engine)
        self.engines[index].handle.kill()
        self.engines[index] = self._start(index)
        await self.engines[index].ready()

    async def busy_share(self) -> float:
        """Mean share of the time since the last call in which an engine had work."""
        now, before = time.monotonic(), self._since
        self._since = now
        busy = await asyncio.gather(*(engine.take_busy_seconds() for engine in self.engines))
        return min(1.0, sum(busy) / len(busy) / max(1e-9, now - before))

    def kill(self) -> None:
        for engine in self.engines:
            engine.handle.kill()


class RolloutPool:
    """Y ~ pi(. | x) on lent engines."""

    def __init__(self, engines: EnginePool, seconds: float) -> None:
        self._engines, self._seconds = engines, seconds

    async def generate(self, prompt: Prompt, sampling: Sampling) -> tuple[Row, ...]:
        async with self._engines.lease(sampling.count) as engine:
            what = f"rollout of question {prompt.question_id}"
            ref, rows = await engine.handle.ask_stored(EngineActor.generate, self._seconds, what, prompt, sampling)
        return tuple(replace(row, ref=ref) for row in rows)


class AllEngines:
    """Every engine of every pool, for the publisher and for metrics."""

    def __init__(self, pools: Sequence[EnginePool]) -> None:
        self._pools = tuple(pools)

    @property
    def engines(self) -> list[Engine]:
        return [engine for pool in self._pools for engine in pool.engines]

    async def busy_share(self) -> float:
        shares = [await pool.busy_share() for pool in self._pools]
        return sum(shares) / len(shares)

    async def restart(self, engine: ports.Engine) -> None:
        for pool in self._pools:
            if any(one is engine for one in pool.engines):
                await pool.restart(engine)
                return
        raise PoolError(f"engine {engine.name} belongs to no pool")
