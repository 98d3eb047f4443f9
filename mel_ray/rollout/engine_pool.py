"""The rollout pool: one actor per engine, lent to those who sample, the least loaded one first.

Consumes prompts, produces rows whose groups are in the object store. A call waits for its own completions only, so the
questions of one step share the engine's continuous batch with each other and with the experience pool's requests. An
engine is handed at most twice as many sequences as it can run at once; the rest waits here, where no deadline counts:
drafts and replays of questions that were begun come first, then new questions, then an evaluation's.
"""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import ray

from mel_ray.actors.handles import SIGN_OF_LIFE, Handle
from mel_ray.actors.incidents import Incidents
from mel_ray.actors.members import Members
from mel_ray.actors.placement import Placement, has_node, options_of
from mel_ray.actors.process import (
    COMPILED_ENGINE_ENV,
    CPU_ENGINE_ENV,
    CPU_WORKERS_ENV,
    ENGINE_ENV,
    redirect_output,
    runtime_env,
)
from mel_ray.config.cluster import DeadlineConfig
from mel_ray.config.plan import PoolPlan
from mel_ray.config.schema import ClusterConfig, ModelConfig
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.model_folder import on_this_node
from mel_ray.records.incident import SURVIVORS, LostActor, Poison, PoolError
from mel_ray.records.ports import Turn
from mel_ray.records.reports import EngineClock
from mel_ray.records.row import Row, rows_of_group
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

    async def ping(self) -> None:
        await self._engine.ping()

    async def abort(self) -> None:
        await self._engine.abort()


class Engine:
    """A handle to one engine, with the deadline of every call.

    `running` counts the sequences it was handed; `has_suspect`: one of those who hold it lost another engine before.
    """

    def __init__(self, handle: Handle[EngineActor], deadlines: DeadlineConfig) -> None:
        self.handle, self._deadlines, self.running = handle, deadlines, 0
        self.has_suspect = self._is_receiving = False

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
        self._is_receiving = True
        try:
            await self.handle.ask(EngineActor.receive, self._deadlines.publish, "", info)
        finally:
            self._is_receiving = False

    async def finish_update(self, version: int, keep_kv: bool = False) -> str:
        return await self.handle.ask(EngineActor.finish_update, self._deadlines.publish, "", version, keep_kv)

    async def take_counts(self) -> EngineClock:
        return await self.handle.ask(EngineActor.take_counts, self._deadlines.judge)

    async def ping(self, seconds: float) -> None:
        if not self._is_receiving:  # then it waits for the policy, under a deadline of its own
            await self.handle.ask(EngineActor.ping, seconds, SIGN_OF_LIFE)

    async def abort(self) -> None:
        """End all its requests; nobody waits for them any more."""
        await self.handle.ask(EngineActor.abort, self._deadlines.publish)

    def kill(self) -> None:
        self.handle.kill()


@dataclass(order=True, slots=True)
class Waiting:
    """One who waits for an engine."""

    turn: Turn
    ticket: int
    sequences: int = field(compare=False)
    is_suspect: bool = field(compare=False)
    engine: asyncio.Future[Engine] = field(compare=False)


class EnginePool:
    """As many engines as the plan says."""

    def __init__(
        self, plan: PoolPlan, settings: EngineSettings, model: ModelConfig, cluster: ClusterConfig, logs: Path | None,
        placement: Placement | None = None, incidents: Incidents | None = None,
    ) -> None:  # fmt: skip
        self._plan, self._settings, self._model, self._cluster, self._logs = plan, settings, model, cluster, logs
        self._placement = placement
        self._queue: list[Waiting] = []
        self._tickets = itertools.count()
        self._is_open, self._is_frozen, self._empty = True, False, asyncio.Condition()
        is_there = partial(has_node, plan, placement=placement)
        heals = not cluster.colocated  # an engine that starts would meet a rank at work on its GPU
        self.members: Members[Engine] = Members(
            plan.name, plan.actors, self._start, incidents, self._admit, is_there, cluster.deadlines.start, heals
        )

    @property
    def engines(self) -> list[Engine]:
        """Those that can be used."""
        return self.members.healthy

    def _start(self, index: int) -> Engine:
        plan, is_cpu = self._plan, self._cluster.device == "cpu"
        name = f"{plan.name}-{index}"
        log = self._logs / f"{name}.log" if self._logs else None
        on_cpu = CPU_ENGINE_ENV | (CPU_WORKERS_ENV if self._settings.tensor_parallel > 1 else {})
        on_cpu |= COMPILED_ENGINE_ENV if self._settings.compiled else {}
        environment = runtime_env(ENGINE_ENV, on_cpu if is_cpu else {}, threads=plan.threads)
        options = options_of(plan, index, self._placement)
        actor = ray.remote(EngineActor).options(max_concurrency=10_000, runtime_env=environment, **options)
        handle: Handle[EngineActor] = Handle(name, actor.remote(self._settings, self._model, log), log)
        return Engine(handle, self._cluster.deadlines)

    async def ready(self) -> None:
        """Wait until every engine has loaded its model."""
        await self.members.ready()

    @asynccontextmanager
    async def lease(self, sequences: int, turn: Turn, is_suspect: bool = False) -> AsyncIterator[Engine]:
        """The least loaded engine, once it has room for as many sequences (or has nothing to do at all).

        While the first in the queue waits for room, those behind it wait for their turn. An engine has one suspect at
        a time, so that it is known who was there when it is lost, too.

        Raises:
            PoolError: no engine is left, and none will be.
        """
        engine = await self._admitted(sequences, turn, is_suspect)
        try:
            yield engine
        finally:
            await self._give_back(engine, sequences, is_suspect)

    async def on_engine(self, sequences: int, turn: Turn, ask: Callable[[Engine], Awaitable[T]]) -> T:
        """What `ask` gives with a lent engine. Where that engine is lost, it is asked again, with the same seeds; where
        it was replaced for another reason in the meantime, too.

        Raises:
            Poison: a second engine was lost, with nobody else there who had lost one.
            PoolError: raised by `ask`.
        """
        lost_engines = 0
        while True:
            async with self.lease(sequences, turn, lost_engines > 0) as engine:
                if lost_engines and not await self.members.is_alive(engine, self._cluster.deadlines.hang):
                    continue
                try:
                    return await ask(engine)
                except PoolError as error:
                    is_lost = isinstance(error, LostActor) and error.who == engine.name
                    if not is_lost and self.members.is_healthy(engine):
                        raise
                    lost_engines += is_lost
                    self.members.replace(engine, error)
                    if lost_engines == SURVIVORS:
                        raise Poison(str(error)) from error
                    self.members.incidents.ask_again(sequences)

    async def _admitted(self, sequences: int, turn: Turn, is_suspect: bool) -> Engine:
        future: asyncio.Future[Engine] = asyncio.get_running_loop().create_future()
        waiting = Waiting(turn, next(self._tickets), sequences, is_suspect, future)
        heapq.heappush(self._queue, waiting)
        self._admit()
        try:
            return await waiting.engine
        except asyncio.CancelledError:
            if waiting.engine.done() and not waiting.engine.cancelled() and not waiting.engine.exception():
                await self._give_back(waiting.engine.result(), sequences, is_suspect)
            waiting.engine.cancel()
            self._admit()
            raise

    async def _give_back(self, engine: Engine, sequences: int, is_suspect: bool) -> None:
        engine.running -= sequences
        engine.has_suspect &= not is_suspect
        self._admit()
        async with self._empty:
            self._empty.notify_all()

    def _admit(self) -> None:
        """Hand out engines to the first in the queue for as long as there is room."""
        while self._queue and self._is_open:
            first, failure = self._queue[0], self.members.failure
            if first.engine.done():
                heapq.heappop(self._queue)
            elif failure:
                first.engine.set_exception(failure)
            else:
                fitting = [one for one in self.engines if not (first.is_suspect and one.has_suspect)]
                engine = min(fitting, key=lambda one: one.running, default=None)
                if engine is None or not self._has_room(engine, first.sequences):
                    return
                engine.running += first.sequences
                engine.has_suspect |= first.is_suspect
                first.engine.set_result(engine)

    async def drain(self) -> None:
        """Hand out no engine until `resume`, and wait until all have been given back."""
        self._is_open = False
        async with self._empty:
            await self._empty.wait_for(lambda: not any(engine.running for engine in self.members.all))

    async def pause(self) -> None:
        """Freeze every engine between two of its steps, and hand out none until `resume`."""
        self._is_open = False
        if not self._is_frozen:
            self._is_frozen = True
            await self.on_each(lambda engine: engine.pause())

    async def resume(self) -> None:
        if self._is_frozen:
            await self.on_each(lambda engine: engine.resume())
        self._is_frozen, self._is_open = False, True
        self._admit()

    async def on_each(self, ask: Callable[[Engine], Awaitable[T]]) -> list[T]:
        """What every engine gives; those that are lost give nothing, and are replaced."""
        engines = self.engines
        found = await asyncio.gather(*map(ask, engines), return_exceptions=True)
        given: list[T] = []
        for engine, one in zip(engines, found, strict=True):
            if isinstance(one, LostActor):
                self.members.replace(engine, one)
            elif isinstance(one, BaseException):
                raise one
            else:
                given.append(one)
        return given

    def _has_room(self, engine: Engine, sequences: int) -> bool:
        return not engine.running or engine.running + sequences <= HANDED_OUT * self._cluster.rollout.max_sequences

    def kill(self) -> None:
        self.members.kill()
