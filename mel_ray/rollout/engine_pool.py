"""The rollout pool: one actor per engine, lent to those who sample, the least loaded one first.

Consumes prompts, produces rows whose groups are in the object store. A call waits for its own completions only, so the
questions of one step share the engine's continuous batch with each other and with the experience pool's requests. An
engine is handed at most twice as many sequences as it can run at once; the rest waits here, where no deadline counts:
drafts and replays of questions that were begun come first, then new questions, then an evaluation's.
"""

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import ray

from mel_ray.actors.handles import Handle, PoolError
from mel_ray.actors.placement import Placement, options_of
from mel_ray.actors.process import CPU_ENGINE_ENV, CPU_WORKERS_ENV, ENGINE_ENV, redirect_output, runtime_env
from mel_ray.config.cluster import DeadlineConfig
from mel_ray.config.plan import PoolPlan
from mel_ray.config.schema import ClusterConfig, ModelConfig
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.model_folder import on_this_node
from mel_ray.records import ports
from mel_ray.records.ports import Turn
from mel_ray.records.reports import EngineClock
from mel_ray.records.row import Ref, Row, rows_of_group
from mel_ray.records.trajectory import Group, Prompt, Sampling
from mel_ray.rollout.vllm_engine import EngineSettings, VllmEngine

T = TypeVar("T")
HANDED_OUT = 2  # times what an engine can run at once, so that it can fill every slot as soon as a sequence ends


class EngineActor:
    """One vLLM engine with the tokenizer that turns its tokens into text."""

    def __init__(self, settings: EngineSettings, model: ModelConfig, log: Path | None) -> None:
        redirect_output(log)
        settings = replace(settings, model=str(on_this_node(Path(settings.model))))
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

    async def pause(self) -> None:
        await self._engine.pause()

    async def resume(self) -> None:
        await self._engine.resume()

    async def sleep(self) -> None:
        await self._engine.sleep()

    async def wake(self, part: Literal["weights", "kv_cache"]) -> None:
        await self._engine.wake(part)

    async def begin_update(self) -> None:
        await self._engine.begin_update()

    async def receive(self, info: dict[str, Any]) -> None:
        await self._engine.receive(info)

    async def finish_update(self, version: int, keep_kv: bool = False) -> str:
        return await self._engine.finish_update(version, keep_kv)

    async def take_counts(self) -> EngineClock:
        return self._engine.take_counts()


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

    async def pause(self) -> None:
        await self.handle.ask(EngineActor.pause, self._deadlines.publish)

    async def resume(self) -> None:
        await self.handle.ask(EngineActor.resume, self._deadlines.publish)

    async def sleep(self) -> None:
        await self.handle.ask(EngineActor.sleep, self._deadlines.publish)

    async def wake(self, part: Literal["weights", "kv_cache"]) -> None:
        await self.handle.ask(EngineActor.wake, self._deadlines.publish, f"wake {part}", part)

    async def begin_update(self) -> None:
        await self.handle.ask(EngineActor.begin_update, self._deadlines.publish)

    async def receive(self, info: dict[str, Any]) -> None:
        await self.handle.ask(EngineActor.receive, self._deadlines.publish, "", info)

    async def finish_update(self, version: int, keep_kv: bool = False) -> str:
        return await self.handle.ask(EngineActor.finish_update, self._deadlines.publish, "", version, keep_kv)

    async def take_counts(self) -> EngineClock:
        return await self.handle.ask(EngineActor.take_counts, self._deadlines.judge)


@dataclass(order=True, slots=True)
class Waiting:
    """One who waits for an engine."""

    turn: Turn
    ticket: int
    sequences: int = field(compare=False)
    engine: asyncio.Future[Engine] = field(compare=False)


class EnginePool:
    """As many engines as the plan says."""

    def __init__(
        self, plan: PoolPlan, settings: EngineSettings, model: ModelConfig, cluster: ClusterConfig, logs: Path | None,
        placement: Placement | None = None,
    ) -> None:  # fmt: skip
        self._plan, self._settings, self._model, self._cluster, self._logs = plan, settings, model, cluster, logs
        self._placement = placement
        self._queue: list[Waiting] = []
        self._tickets = itertools.count()
        self._is_open, self._is_frozen, self._empty = True, False, asyncio.Condition()
        self.engines = [self._start(index) for index in range(plan.actors)]

    def _start(self, index: int) -> Engine:
        plan, is_cpu = self._plan, self._cluster.device == "cpu"
        name = f"{plan.name}-{index}"
        log = self._logs / f"{name}.log" if self._logs else None
        on_cpu = CPU_ENGINE_ENV | (CPU_WORKERS_ENV if self._settings.tensor_parallel > 1 else {})
        environment = runtime_env(ENGINE_ENV, on_cpu if is_cpu else {}, threads=plan.threads)
        options = options_of(plan, index, self._placement)
        actor = ray.remote(EngineActor).options(max_concurrency=10_000, runtime_env=environment, **options)
        handle: Handle[EngineActor] = Handle(name, actor.remote(self._settings, self._model, log), log)
        return Engine(handle, self._cluster.deadlines)

    async def ready(self) -> None:
        """Wait until every engine has loaded its model."""
        await asyncio.gather(*(engine.ready() for engine in self.engines))

    @asynccontextmanager
    async def lease(self, sequences: int, turn: Turn) -> AsyncIterator[Engine]:
        """The least loaded engine, once it has room for as many sequences (or has nothing to do at all).

        While the first in the queue waits for room, those behind it wait for their turn.
        """
        engine = await self._admitted(sequences, turn)
        try:
            yield engine
        finally:
            await self._give_back(engine, sequences)

    async def on_engine(self, sequences: int, turn: Turn, ask: Callable[[Engine], Awaitable[T]]) -> T:
        """What `ask` gives with a lent engine. It is asked again where that engine was replaced in the meantime; the
        seeds are the same.

        Raises:
            PoolError: raised by `ask`, and the engine is still in use.
        """
        while True:
            async with self.lease(sequences, turn) as engine:
                try:
                    return await ask(engine)
                except PoolError:
                    if any(one is engine for one in self.engines):
                        raise

    async def _admitted(self, sequences: int, turn: Turn) -> Engine:
        waiting = Waiting(turn, next(self._tickets), sequences, asyncio.get_running_loop().create_future())
        heapq.heappush(self._queue, waiting)
        self._admit()
        try:
            return await waiting.engine
        except asyncio.CancelledError:
            if waiting.engine.done() and not waiting.engine.cancelled():
                await self._give_back(waiting.engine.result(), sequences)
            waiting.engine.cancel()
            self._admit()
            raise

    async def _give_back(self, engine: Engine, sequences: int) -> None:
        engine.running -= sequences
        self._admit()
        async with self._empty:
            self._empty.notify_all()

    def _admit(self) -> None:
        """Hand out engines to the first in the queue for as long as there is room."""
        while self._queue and self._is_open:
            first, engine = self._queue[0], self._least_loaded()
            if first.engine.cancelled():
                heapq.heappop(self._queue)
            elif self._has_room(engine, first.sequences):
                heapq.heappop(self._queue)
                engine.running += first.sequences
                first.engine.set_result(engine)
            else:
                return

    async def drain(self) -> None:
        """Hand out no engine until `resume`, and wait until all have been given back."""
        self._is_open = False
        async with self._empty:
            await self._empty.wait_for(lambda: not any(engine.running for engine in self.engines))

    async def pause(self) -> None:
        """Freeze every engine between two of its steps, and hand out none until `resume`."""
        self._is_open = False
        if not self._is_frozen:
            self._is_frozen = True
            await asyncio.gather(*(engine.pause() for engine in self.engines))

    async def resume(self) -> None:
        if self._is_frozen:
            await asyncio.gather(*(engine.resume() for engine in self.engines))
        self._is_frozen, self._is_open = False, True
        self._admit()

    def _least_loaded(self) -> Engine:
        return min(self.engines, key=lambda engine: engine.running)

    def _has_room(self, engine: Engine, sequences: int) -> bool:
        return not engine.running or engine.running + sequences <= HANDED_OUT * self._cluster.rollout.max_sequences

    async def restart(self, engine: ports.Engine) -> None:
        """Replace an engine that must not be used any more. The new one still needs weights, so no engine may be
        handed out until `resume`; what the old one was sampling is asked again."""
        index = next(number for number, one in enumerate(self.engines) if one is engine)
        self.engines[index].handle.kill()
        self.engines[index] = self._start(index)
        await self.engines[index].ready()

    def kill(self) -> None:
        for engine in self.engines:
            engine.handle.kill()


class RolloutPool:
    """Y ~ pi(. | x) on lent engines."""

    def __init__(self, engines: EnginePool, seconds: float) -> None:
        self._engines, self._seconds = engines, seconds

    async def generate(self, prompt: Prompt, sampling: Sampling, turn: Turn = Turn.NEW) -> tuple[Row, ...]:
        what = f"rollout of question {prompt.question_id}"

        def ask(engine: Engine) -> Awaitable[tuple[Ref, tuple[Row, ...]]]:
            return engine.handle.ask_stored(EngineActor.generate, self._seconds, what, prompt, sampling)

        ref, rows = await self._engines.on_engine(sampling.count, turn, ask)
        return tuple(replace(row, ref=ref) for row in rows)


class AllEngines:
    """Every engine of every pool, for the publisher and for metrics."""

    def __init__(self, pools: Sequence[EnginePool], tensor_parallel: int = 1) -> None:
        self._pools, self._devices, self._since = tuple(pools), tensor_parallel, time.monotonic()

    @property
    def engines(self) -> list[Engine]:
        return [engine for pool in self._pools for engine in pool.engines]

    async def drain(self) -> None:
        await asyncio.gather(*(pool.drain() for pool in self._pools))

    async def pause(self) -> None:
        await asyncio.gather(*(pool.pause() for pool in self._pools))

    async def resume(self) -> None:
        await asyncio.gather(*(pool.resume() for pool in self._pools))

    async def sleep(self) -> None:
        """Leave the GPUs to the policy."""
        await asyncio.gather(*(engine.sleep() for engine in self.engines))

    async def wake(self, part: Literal["weights", "kv_cache"]) -> None:
        await asyncio.gather(*(engine.wake(part) for engine in self.engines))

    async def measures(self) -> dict[str, float]:
        """Means over engines of the time since the last call: share with work, share paused, tokens per second and
        device; and the tokens computed again because an update cleared the cache under them."""
        now, before = time.monotonic(), self._since
        self._since = now
        clocks = await asyncio.gather(*(engine.take_counts() for engine in self.engines))
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

    async def restart(self, engine: ports.Engine) -> None:
        for pool in self._pools:
            if any(one is engine for one in pool.engines):
                await pool.restart(engine)
                return
        raise PoolError(f"engine {engine.name} belongs to no pool")
