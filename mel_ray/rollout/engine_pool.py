"""Engines as Ray actors, and the rollout pool that asks the least loaded of them.

Consumes prompts, produces groups. A call waits for its own completions only, so questions of one step run
inside the engine's continuous batch beside each other and beside the experience pool's requests.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from mel_ray.config.schema import ClusterConfig, ModelConfig
from mel_ray.data.chat import ChatTokenizer
from mel_ray.rollout.vllm_engine import EngineSettings, VllmEngine
from mel_ray.actors.process import CPU_ENGINE_ENV, ENGINE_ENV, redirect_output, runtime_env
from mel_ray.actors.waiting import PoolError, settle
from mel_ray.records.exploration import GroupTicket
from mel_ray.records.trajectory import Group, GroupFacts, Prompt, Sampling, Trajectory


class EngineActor:
    """One vLLM engine with the tokenizer that turns its tokens into text."""

    def __init__(self, settings: EngineSettings, model: ModelConfig, log: Path | None) -> None:
        redirect_output(log)
        self._tokenizer = ChatTokenizer(settings.model, model)
        self._engine = VllmEngine(settings)

    async def ready(self) -> dict[str, Any]:
        return self._engine.describe()

    @ray.method(num_returns=2)
    async def generate(self, prompt: Prompt, sampling: Sampling) -> tuple[Group, GroupFacts]:
        """Y ~ pi(. | x): the group for the object store, and its facts for the driver."""
        sampled = await self._engine.sample(prompt.token_ids, sampling, self._tokenizer.stop_ids)
        trajectories = tuple(
            Trajectory(
                token_ids=np.asarray(one.token_ids, dtype=np.int32),
                logprobs=np.asarray(one.logprobs, dtype=np.float32),
                text=self._tokenizer.decode(one.token_ids),
                finish_reason=one.finish_reason,
                seed=seed,
                weight_version=self._engine.weight_version,
            )
            for one, seed in zip(sampled, sampling.seeds, strict=True)
        )
        group = Group(prompt, trajectories)
        return group, group.facts()

    async def connect_weights(self, init_info: dict[str, Any]) -> None:
        await self._engine.connect_weights(init_info)

    async def begin_update(self) -> None:
        await self._engine.begin_update()

    async def receive(self, update_info: dict[str, Any]) -> None:
        await self._engine.receive(update_info)

    async def finish_update(self, version: int) -> str:
        return await self._engine.finish_update(version)

    async def take_busy_seconds(self) -> float:
        return self._engine.take_busy_seconds()


@dataclass(slots=True)
class Engine:
    """A handle to one engine actor."""

    name: str
    actor: Any
    log: Path | None
    running: int = 0


class EnginePool:
    """A set of engines; `lease` hands out the one with the fewest calls running."""

    def __init__(
        self,
        name: str,
        settings: EngineSettings,
        model: ModelConfig,
        cluster: ClusterConfig,
        count: int,
        logs: Path | None,
    ) -> None:
        self._name, self._settings, self._model, self._cluster, self._logs = name, settings, model, cluster, logs
        self._since = time.monotonic()
        self.engines = [self._start(index) for index in range(count)]

    def _start(self, index: int) -> Engine:
        pool, is_cpu = self._cluster.rollout, self._cluster.device == "cpu"
        name = f"{self._name}-{index}"
        log = self._logs / f"{name}.log" if self._logs else None
        actor = (
            ray.remote(EngineActor)
            .options(
                num_cpus=pool.cpus,
                num_gpus=0 if is_cpu else pool.tensor_parallel,
                max_concurrency=10_000,
                runtime_env=runtime_env(ENGINE_ENV, CPU_ENGINE_ENV if is_cpu else {}, threads=pool.threads),
            )
            .remote(self._settings, self._model, log)
        )
        return Engine(name, actor, log)

    async def ready(self) -> None:
        """Wait until every engine has loaded its model."""
        await self._all("ready", self._cluster.deadlines.start)

    async def _all(self, method: str, seconds: float, *arguments: Any) -> list[Any]:
        calls = [
            settle(getattr(engine.actor, method).remote(*arguments), f"engine {engine.name}", seconds, engine.log)
            for engine in self.engines
        ]
        return await asyncio.gather(*calls)

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Engine]:
        engine = min(self.engines, key=lambda candidate: candidate.running)
        engine.running += 1
        try:
            yield engine
        finally:
            engine.running -= 1

    async def restart(self, engine: Engine) -> None:
        """Replace an engine that must not be used any more; the new one still needs weights."""
        ray.kill(engine.actor)
        index = self.engines.index(engine)
        self.engines[index] = self._start(index)
        fresh = self.engines[index]
        await settle(fresh.actor.ready.remote(), f"engine {fresh.name}", self._cluster.deadlines.start, fresh.log)

    async def busy_share(self) -> float:
        """Mean share of the time since the last call in which an engine had work."""
        now, before = time.monotonic(), self._since
        self._since = now
        busy = await self._all("take_busy_seconds", self._cluster.deadlines.judge)
        return min(1.0, sum(busy) / len(busy) / max(1e-9, now - before))


class RolloutPool:
    """Y ~ pi(. | x) on the least loaded engine."""

    def __init__(self, engines: EnginePool, seconds: float) -> None:
        self._engines, self._seconds = engines, seconds

    async def generate(self, prompt: Prompt, sampling: Sampling) -> GroupTicket:
        async with self._engines.lease() as engine:
            group, facts = engine.actor.generate.remote(prompt, sampling)
            label = f"rollout of question {prompt.question_id} on {engine.name}"
            return GroupTicket(group, await settle(facts, label, self._seconds, engine.log))


class AllEngines:
    """Every engine of every pool, for those who address them all."""

    def __init__(self, pools: Sequence[EnginePool]) -> None:
        self._pools = tuple(pools)

    @property
    def engines(self) -> list[Engine]:
        return [engine for pool in self._pools for engine in pool.engines]

    async def busy_share(self) -> float:
        shares = [await pool.busy_share() for pool in self._pools]
        return sum(shares) / len(shares)

    async def restart(self, engine: Engine) -> None:
        for pool in self._pools:
            if engine in pool.engines:
                await pool.restart(engine)
                return
        raise PoolError(f"engine {engine.name} belongs to no pool")
