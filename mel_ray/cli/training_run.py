"""A run from its pools to its export.

Waits for nobody but the training loop. Engines, verifiers and experience actors are replaced while it goes on. Where
the policy is lost, all pools start again from the last checkpoint, and what was explored since is trained on again.
"""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mel_ray.actors.incidents import Incidents
from mel_ray.cli.app import STOP_SIGNALS, first_cause, heed_signals, leaving_ray, unless_lost
from mel_ray.config.schema import Config
from mel_ray.data.prepare import Prepared
from mel_ray.driver.batches import Asked, Waiting, WaitingBatches, refs_of, without_lost
from mel_ray.driver.loop import Loop, Stopped, Watch
from mel_ray.driver.state import RunState
from mel_ray.evaluation.journal import RunJournals
from mel_ray.records.incident import IncidentKind, LostActor, LostRecords, NoRoom, PoolError
from mel_ray.records.ports import Sink
from mel_ray.records.problem import ConfigError, counted
from mel_ray.run.archive import RunArchive
from mel_ray.run.checkpoints import Checkpoints, latest_checkpoint
from mel_ray.run.console import make_console
from mel_ray.run.folder import RunFolder
from mel_ray.run.metrics_file import MetricsFile, evaluations_done
from mel_ray.run.scrub import scrub_values
from mel_ray.run.shadow import Kept, Shadow

if TYPE_CHECKING:
    from mel_ray.driver.wiring import Pools

ATTEMPTS = 3  # to get beyond a step
Origin = Path | Kept[RunState] | None  # a checkpoint's folder, or the state in memory


def make_sinks(config: Config, folder: RunFolder, done: int) -> list[Sink]:
    from mel_ray.run.ray_sink import RayMetricsSink

    sinks: list[Sink] = [MetricsFile(folder), RayMetricsSink(str(config.run.name))]
    if config.observe.wandb != "off":
        from mel_ray.run.wandb_sink import WandbSink

        settings = config.observe
        dump = scrub_values(config.model_dump(mode="json"))
        sinks.append(WandbSink(folder.path, str(config.run.name), settings.wandb_project, settings.wandb, dump))
    sinks.append(
        make_console(config.observe.console, config.run.steps, done, config.driver.capacity, config.rollout.partial)
    )
    return sinks


class TrainingRun:
    """`state` tells at any time what has been done."""

    def __init__(self, config: Config, prepared: Prepared, folder: RunFolder, state: RunState) -> None:
        self._config, self._prepared, self._folder, self._state = config, prepared, folder, state
        self._incidents, self._stopping = Incidents(), asyncio.Event()
        self._sinks: list[Sink] = []
        self._loop: Loop | None = None
        self._checkpoints: Checkpoints | None = None
        self._shadow: Shadow[RunState] | None = None
        self._reached, self._attempts, self._starts, self._has_halved = state.step, 0, 0, False

    async def run(self, checkpoint: Path | None, waiting: Waiting) -> None:
        """Until the steps are done, from a checkpoint on, with what had been explored ahead by then.

        Raises:
            Stopped: it was asked to stop, and has saved.
            PoolError: a pool could not do its work, nor be started again.
        """
        from mel_ray.actors.calls import watch_progress
        from mel_ray.actors.home import watch_home
        from mel_ray.driver.wiring import connected_to_ray

        status = "failed"
        with leaving_ray() as leave, connected_to_ray(self._config):
            heed_signals()
            for number in STOP_SIGNALS:
                asyncio.get_running_loop().add_signal_handler(number, self._stopping.set)
            watchdog = asyncio.create_task(watch_progress(self._config.cluster.deadlines.quiet, self._incidents))
            try:
                await unless_lost(self._attempts_from(checkpoint, waiting), watch_home())
                status = "done"
            except Exception as error:
                status = "stopped" if isinstance(first_cause(error), Stopped) else status
                raise
            finally:
                watchdog.cancel()
                leave()
                for sink in self._sinks:
                    sink.close(status)

    async def _attempts_from(self, checkpoint: Path | None, waiting: Waiting) -> None:
        pools = self._pools()
        origin: Origin = checkpoint
        ahead: Sequence[Asked] = waiting.put_into(pools.store)
        while True:
            try:
                await self._go(pools, origin, ahead)
                return
            except Exception as error:
                lost = await self._loss_behind(error, pools)
                if lost is not None or self._attempts > ATTEMPTS:
                    pools.kill()  # nobody is waited for who does not answer
                for under_way in (self._checkpoints, self._shadow):
                    if under_way:
                        await under_way.abandon()
                if lost is None:
                    cause = first_cause(error)
                    if isinstance(cause, ConfigError) and self._loop is not None:  # what was asked for was possible
                        raise PoolError(str(cause)) from error
                    raise
                if self._loop is not None:
                    origin, ahead = await self._rewound(lost, pools, self._loop)
                else:
                    self._tell_lost(lost)
                pools = await self._pools_again()

    async def _pools_again(self) -> "Pools":
        """Waits for nodes that have room for them.

        Raises:
            PoolError: there are none.
            Stopped: it was asked to stop in the meantime.
        """
        until, has_told = time.monotonic() + self._config.cluster.deadlines.start, False
        while True:
            if self._stopping.is_set():
                raise Stopped
            try:
                return self._pools()
            except (ConfigError, NoRoom) as error:
                if time.monotonic() > until:
                    raise PoolError(f"{error} (waited {self._config.cluster.deadlines.start:g} s)") from error
                if not has_told:
                    text = f"{str(error).rstrip('.')}. It waits for a node that has room."
                    self._incidents.tell(IncidentKind.WAITING, "cluster", text)
                    has_told = True
                await asyncio.sleep(1)

    def _pools(self) -> "Pools":
        from mel_ray.driver.wiring import Pools

        return Pools(self._config, self._prepared.model_folder, self._folder.logs, self._incidents)

    async def _go(self, pools: "Pools", origin: Origin, ahead: Sequence[Asked]) -> None:
        """One attempt: from where the run is to the export."""
        from mel_ray.driver.wiring import make_loop

        config, folder, state = self._config, self._folder, self._state
        await self._unless_stopped(pools.ready(origin.parts if isinstance(origin, Kept) else origin))
        if not self._sinks:
            self._begin_reporting()
        is_repeatable = config.driver.publish == "drain" and not config.rollout.partial
        archive = RunArchive(
            folder, pools.store, config.observe.trajectories, config.run.seed, is_repeatable, self._not_saved
        )
        loop = make_loop(config, pools, self._prepared.prompts.prompts, archive, state, ahead)
        if self._loop is None and origin is not None:
            loop.buffer.batches.note_saved()
        loop.stopping, self._loop = self._stopping, loop
        memory, book = loop.learner.memory, loop.learner.book
        if isinstance(origin, Kept):
            memory.entries, book.entries = list(origin.lessons), list(origin.book)
        elif origin is not None:
            await memory.load(origin)
            await book.load(origin)
        explored = WaitingBatches(loop.buffer.batches, loop.data, state, pools.store)
        self._checkpoints = checkpoints = Checkpoints(
            folder.checkpoints, config.checkpoint, [memory, book, explored], pools.policy, loop.buffer.batches.forget,
            self._not_saved,
        )  # fmt: skip
        if config.checkpoint.shadow:
            kept = self._shadow.kept if self._shadow else None
            self._shadow = Shadow(pools.policy, memory, book, self._not_saved, kept)
        journals = RunJournals(folder, pools.store)
        benchmarks, shadow = self._prepared.benchmarks, self._shadow
        done = evaluations_done(folder.metrics)
        watch = Watch(state, pools.evaluator, benchmarks, journals, checkpoints, self._sinks, shadow, done)
        await unless_lost(loop.run(watch), pools.policy.watched(config.cluster.deadlines.hang))
        shutil.rmtree(folder.partial_export, ignore_errors=True)
        await pools.policy.export(folder.partial_export)
        folder.complete_export(state.step)
        if self._shadow:
            await self._shadow.abandon()

    def _not_saved(self, sentence: str) -> None:
        self._incidents.tell(IncidentKind.NOT_SAVED, "checkpoint", sentence)

    async def _unless_stopped(self, starting: Awaitable[None]) -> None:
        """
        Raises:
            Stopped: it was asked to stop in the meantime.
        """

        async def stopped() -> NoReturn:
            await self._stopping.wait()
            raise Stopped

        await unless_lost(starting, stopped())

    def _begin_reporting(self) -> None:
        self._sinks = make_sinks(self._config, self._folder, self._state.step)
        self._incidents.listen(*(sink.incident for sink in self._sinks))

    # -- when the policy is lost

    async def _loss_behind(self, error: Exception, pools: "Pools") -> LostActor | LostRecords | None:
        """What was lost that explains a failure of the loop, a rank or records, if another attempt is worth it."""
        cause = first_cause(error)
        if not isinstance(cause, PoolError):
            return None
        lost: LostActor | LostRecords | None
        if self._loop is None:  # it never started: what cannot will not the next time either
            lost = cause if isinstance(cause, LostActor) else await pools.policy.loss_behind(cause)
            self._starts += 1
            return lost if lost is not None and lost.has_died and self._starts == 1 else None
        if self._state.step > self._reached:
            self._reached, self._attempts, self._has_halved = self._state.step, 0, False
        self._attempts += 1
        if isinstance(cause, LostRecords) or (isinstance(cause, LostActor) and self._config.cluster.colocated):
            lost = cause
        else:
            lost = await pools.policy.loss_behind(cause)
        if self._attempts > ATTEMPTS or (isinstance(lost, LostActor) and lost.is_full and self._has_halved):
            return None
        return lost

    async def _rewound(
        self, lost: LostActor | LostRecords, pools: "Pools", loop: Loop
    ) -> tuple[Origin, Sequence[Asked]]:
        """The last state there is, and the questions to begin with: all that were asked since."""
        self._tell_lost(lost)
        checkpoint, done = latest_checkpoint(self._folder.checkpoints), self._state.step
        state = RunState.read(checkpoint) if checkpoint else RunState()
        origin: Origin = checkpoint
        where = f"the checkpoint of step {state.step}" if checkpoint else "the beginning"
        if isinstance(lost, LostRecords):
            self._shadow = None  # its parts, or the records of its lessons, may be among them
        kept = self._shadow.kept if self._shadow else None
        if kept and kept.state.step >= state.step:
            state, origin = deepcopy(kept.state), kept
            where = f"the state after step {state.step}, which was in memory"
        since = loop.buffer.batches.since(state.step)
        if since is None:
            since = Waiting.read(checkpoint, state.waiting).put_into(pools.store) if checkpoint else []
        else:
            state.position = loop.data.position
            since = without_lost(since, await pools.store.lost(refs_of(since)))
        state.quarantined = list(dict.fromkeys([*state.quarantined, *self._state.quarantined]))
        state.questions = self._state.questions
        self._state.restore(state)
        moved = self._folder.rewind(state.step if origin else -1)
        for sink in self._sinks:
            if isinstance(sink, MetricsFile):
                sink.forget(state.step)
        explored = sum(one.explored is not None for one in since)
        parts = [f"It goes on from {where}"]
        if done > state.step:
            parts.append(f"{counted(done - state.step, 'step')} done since then will be trained again")
        if explored:
            parts.append(f"{counted(explored, 'question')} explored already will not be sampled again")
        if moved:
            parts.append(str(moved))
        self._incidents.tell(IncidentKind.REWOUND, "policy", f"{'; '.join(parts)}.")
        return origin, since

    def _tell_lost(self, lost: LostActor | LostRecords) -> None:
        sentence, *log = str(lost).splitlines()
        who = lost.who if isinstance(lost, LostActor) else "object store"
        sentence += " All pools start again."
        if isinstance(lost, LostActor) and lost.is_full:
            sentence += f" cluster.policy.token_budget is {self._halved_token_budget()} from now on."
        self._incidents.tell(IncidentKind.LOST, who, "\n".join([sentence, *log]))

    def _halved_token_budget(self) -> int:
        """Nothing else changes: a batch's update does not depend on how it is cut into microbatches."""
        cluster = self._config.cluster
        budget = max(1, cluster.policy.token_budget // 2)
        policy = cluster.policy.model_copy(update={"token_budget": budget})
        self._config = self._config.model_copy(update={"cluster": cluster.model_copy(update={"policy": policy})})
        self._has_halved = True
        return budget
