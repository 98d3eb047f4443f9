"""The training loop: one verb a line; and what it leaves behind."""

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from mel_ray.config.schema import Config
from mel_ray.driver.buffer import Buffer
from mel_ray.driver.guards import FailureGuard, SkipGuard, refuse_poison_alone
from mel_ray.driver.learner import Learner
from mel_ray.driver.metrics import Clock, step_metrics
from mel_ray.driver.order import AsItComes, Order
from mel_ray.driver.source_metrics import source_metrics
from mel_ray.driver.speed import speeds
from mel_ray.driver.state import RunState
from mel_ray.records.evaluation import Benchmark
from mel_ray.records.incident import Losses
from mel_ray.records.ports import Data, Engines, Evaluation, Health, Journals, Publisher, Sink
from mel_ray.records.reports import EvalReport, StepReport
from mel_ray.records.row import count_fates

T = TypeVar("T")


class Checkpoints(Protocol):
    async def save(self, state: RunState, again: bool = False) -> None:
        """Have everything copied, `again` also where a checkpoint of this step is there."""
        ...

    async def finish(self) -> None:
        """Have everything on disk."""
        ...

    def evaluated(self, report: EvalReport) -> bool:
        """Whether a checkpoint of this step is wanted."""
        ...


class Shadow(Protocol):
    async def keep(self, state: RunState) -> None:
        """Have everything copied."""
        ...


class Stopped(Exception):
    """The run was asked to stop, and has saved."""


class Loop:
    """Explore, learn, publish, report, until the steps are done; evaluate and save where it is due."""

    def __init__(
        self, cfg: Config, state: RunState, data: Data, buffer: Buffer, learner: Learner, publisher: Publisher,
        engines: Engines, order: Order | None = None, health: Health | None = None,
    ) -> None:  # fmt: skip
        """`stopping`: set it to end the run after what is under way has been saved."""
        self.cfg, self.state, self.data, self.order = cfg, state, data, order or AsItComes()
        self.health, self.stopping = health, asyncio.Event()
        self.buffer, self.learner, self.publisher, self.engines = buffer, learner, publisher, engines
        self.failures = FailureGuard(cfg.reward.max_failure_rate)
        self.skips = SkipGuard(cfg.algorithm.max_skipped, health)

    async def run(self, watch: "Watch") -> None:
        """From the state's step to the last; the engines begin with the trainer's very weights."""
        async with self.publisher.moving:
            await self._give_weights(self.state.version)
        await self.engines.resume()
        async with asyncio.TaskGroup() as exploring:
            # A failed exploration ends the run, whatever the learner is waiting for.
            self.buffer.start = exploring.create_task
            try:
                await self._steps(watch)
            finally:
                await self.buffer.close()

    async def _steps(self, watch: "Watch") -> None:
        """
        Raises:
            Stopped: it was asked for. What was explored of the step under way is saved with the steps before.
        """
        first, last = self.state.step + 1, self.cfg.run.steps
        saved_at = time.monotonic()
        try:
            if first == 1 and self.cfg.eval.before:
                await self._unless_stopped(watch.evaluate(0))
            is_left_out = 1 < first <= last and _is_due(self.cfg.eval.every, first - 1)  # by an interruption
            if is_left_out and await self._unless_stopped(watch.evaluate(first - 1)):
                await watch.save()
            for step in range(first, last + 1):
                watch.report(await self.step(step))
                with self.buffer.clock_stopped():
                    await watch.keep()
                    is_wanted = step < last and self._is_save_due(step, saved_at)
                    if _is_due(self.cfg.eval.every, step) and step < last:
                        is_wanted |= await self._unless_stopped(watch.evaluate(step))
                    if is_wanted:
                        saved_at = time.monotonic()
                        await watch.save()
            await watch.save_now()  # before anything else can fail
            if self.cfg.eval.after:
                await self._unless_stopped(watch.evaluate(last))
        except Stopped:
            await watch.save_now(again=self.buffer.batches.has_unsaved)
            raise

    def _is_save_due(self, step: int, saved_at: float) -> bool:
        """`saved_at`: when it was done last, by the monotonic clock."""
        minutes = self.cfg.checkpoint.every_minutes
        is_late = minutes > 0 and time.monotonic() - saved_at >= 60 * minutes
        return is_late or _is_due(self.cfg.checkpoint.every, step)

    async def _unless_stopped(self, work: Awaitable[T]) -> T:
        """What the work gives, which is given up where the run is to stop.

        Raises:
            Stopped: it is.
        """
        working, stopping = asyncio.ensure_future(work), asyncio.create_task(self.stopping.wait())
        try:
            if self.stopping.is_set():
                raise Stopped  # however soon the work would be done
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise Stopped
        finally:
            stopping.cancel()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def step(self, step: int) -> StepReport:
        clock = Clock()
        explored = await self._unless_stopped(self.buffer.take(step))
        clock.lap("time/wait")
        if self.cfg.rollout.partial and not self.cfg.driver.capacity:
            await self.engines.pause()  # on policy nothing is sampled while the policy trains
        refuse_poison_alone(step, explored)
        self.failures.watch(explored)
        engine_measures = await self.engines.measures()
        if self.cfg.cluster.colocated:
            await self.engines.sleep()
        async with self.publisher.moving:
            learned = await self.learner.learn(step, explored, self.state.version)
            clock.lap("time/train")
            version = self.state.version + learned.update.moved
            try:
                self.skips.watch(step, learned.update)
                self.order.learned(step, version)
                if learned.update.moved or self.cfg.cluster.colocated:
                    await self.publish(version)
                await self.engines.resume()
                clock.lap("time/publish")
            finally:
                await learned.recording
        clock.lap("time/archive")
        losses = self.health.take() if self.health else Losses()
        ledger = replace(count_fates(learned.rows), asked_again=losses.asked_again)
        self.state.finish_step(step, self.data.position, version, ledger)
        metrics = step_metrics(learned, ledger, self.cfg.algorithm.minibatches) | clock.total("time/step")
        metrics |= source_metrics(learned.rows, [source.name for source in self.cfg.data.sources])
        metrics |= {"time/explore": self.buffer.explored_in, "time/room": self.buffer.idle}
        metrics |= engine_measures
        metrics |= speeds(metrics, self.learner.policy.ranks, self.learner.policy.facts)
        metrics |= {"policy/lr": learned.settings.lr, "policy/version": float(version)}
        metrics |= {"actors/restarts": float(losses.restarts), "actors/asked_again": float(losses.asked_again)}
        metrics |= {"actors/quarantined": float(losses.quarantined)}
        return StepReport(step, metrics, ledger)

    async def publish(self, version: int) -> None:
        """Give the engines the policy's weights: once they are empty, or under what they are running."""
        is_in_flight = self.cfg.driver.publish == "in_flight"
        async with self.order.publishing(version):
            await (self.engines.pause() if is_in_flight else self.engines.drain())
            await self._give_weights(version)
            await self.engines.resume()

    async def _give_weights(self, version: int) -> None:
        if self.cfg.cluster.colocated:
            await self.learner.policy.rest()
            await self.engines.wake("weights")
        await self.publisher.publish(version, self.cfg.driver.keep_kv)
        if self.cfg.cluster.colocated:
            await self.engines.wake("kv_cache")


class Watch:
    """What a run leaves behind besides weights: reports to the sinks, evaluations, checkpoints."""

    def __init__(
        self, state: RunState, evaluation: Evaluation, benchmarks: Sequence[Benchmark], journals: Journals,
        checkpoints: Checkpoints, sinks: Sequence[Sink], shadow: Shadow | None = None,
        done: Mapping[tuple[int, str], Mapping[str, float]] | None = None,
    ) -> None:  # fmt: skip
        """`done`: the scores of evaluations that were made already, by step and benchmark."""
        self._done = done or {}
        self._state, self._evaluation, self._benchmarks, self._journals = state, evaluation, benchmarks, journals
        self._checkpoints, self._sinks, self._shadow = checkpoints, sinks, shadow

    def report(self, report: StepReport) -> None:
        for sink in self._sinks:
            sink.step(report)

    async def evaluate(self, step: int) -> bool:
        """Whether a checkpoint of this step is wanted for its scores."""
        is_wanted = False
        for benchmark in self._benchmarks:
            if (scores := self._done.get((step, benchmark.name))) is not None:
                is_wanted |= self._checkpoints.evaluated(
                    EvalReport(benchmark.name, step, len(benchmark.prompts), scores)
                )
                continue
            journal = self._journals.open(benchmark.name, step)
            report = await self._evaluation.evaluate(benchmark, step, journal)
            await journal.close()
            for sink in self._sinks:
                sink.evaluation(report)
            is_wanted |= self._checkpoints.evaluated(report)
        return is_wanted

    async def keep(self) -> None:
        """In memory, if that is wanted."""
        if self._shadow is not None:
            await self._shadow.keep(self._state)

    async def save(self) -> None:
        """The files are written while training goes on."""
        await self._checkpoints.save(self._state)

    async def save_now(self, again: bool = False) -> None:
        await self._checkpoints.save(self._state, again)
        await self._checkpoints.finish()


def _is_due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0
