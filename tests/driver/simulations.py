"""Small runs of the real driver in virtual time, and what is watched in them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.simulated import Lengths, Rates, Rows, Simulation, Workload
from benchmarks.simulated_engines import EngineRates
from benchmarks.simulated_time import simulate
from mel_ray.config.schema import Config
from mel_ray.driver.batches import Asked
from mel_ray.driver.order import Order
from mel_ray.driver.state import RunState
from mel_ray.policy.batch import rows_in
from mel_ray.records.reports import StepReport
from mel_ray.records.row import Row
from tests.unit.builders import config_of

WORKLOAD = Workload(Lengths(10, 100), Lengths(6, 40), prompt_tokens=5, parsed=0.8)
SMALL = ("run.steps=4", "rollout.prompts_per_step=2", "rollout.group_size=2", "cluster.rollout.max_sequences=4")


def rates(decode: float = 0.1, judge: float = 0.05, train: float = 0.01, publish: float = 0.3, slots: int = 4) -> Rates:
    return Rates(EngineRates(decode, decode / 10, decode / 50, slots), judge, train, 0.2, publish)


def small(*overrides: str) -> Config:
    return config_of(*SMALL, *overrides)


class NoWatch:
    """Keeps the reports; `saving` is called where a checkpoint is due."""

    def __init__(self, saving: Callable[[], Awaitable[None]] | None = None) -> None:
        self.reports: list[StepReport] = []
        self._saving = saving

    def report(self, report: StepReport) -> None:
        self.reports.append(report)

    async def evaluate(self, step: int) -> bool:
        return False

    async def keep(self) -> None:
        return None

    async def save(self) -> None:
        if self._saving:
            await self._saving()

    async def save_now(self, again: bool = False) -> None:
        await self.save()


@dataclass
class Run:
    """What was seen of a run. `versions` are those that each step trained from; `started` and `learned` hold steps in
    the order of what happened: a batch was begun, a batch was learned."""

    simulation: Simulation
    archive: Rows
    watch: NoWatch
    versions: dict[int, int] = field(default_factory=dict)
    events: list[tuple[str, int]] = field(default_factory=list)
    under_way_at_train: list[int] = field(default_factory=list)
    decoded_at_train: list[float] = field(default_factory=list)  # seconds of all engines
    error: BaseException | None = None
    ended: float = 0.0  # in virtual seconds
    tasks_left: int = 0

    @property
    def trained(self) -> list[Row]:
        return [
            row
            for steps in self.simulation.policy.updates
            for step in steps
            for row in rows_in(step.shards)
            if row.has_weight
        ]

    @property
    def rows(self) -> list[Row]:
        """Of all steps."""
        return [row for rows in self.archive.steps.values() for row in rows]

    def questions(self, step: int) -> list[str]:
        return list(dict.fromkeys(row.question_id for row in self.archive.steps[step]))

    @property
    def left(self) -> list[Asked]:
        return self.simulation.loop.buffer.batches.asked


def run(
    config: Config, rates: Rates, state: RunState | None = None, waiting: Sequence[Asked] = (),
    order: Order | None = None, change: Callable[[Simulation], None] | None = None, workload: Workload = WORKLOAD,
    saving: Callable[[Simulation], Awaitable[None]] | None = None, questions: int = 200,
) -> Run:  # fmt: skip
    """From the state to the last step, or to the first failure. `change` may break what it likes beforehand."""

    async def main() -> Run:
        archive = Rows()
        simulation = Simulation(
            config, rates, workload, questions, state=state, waiting=waiting, order=order, archive=archive
        )
        watch = NoWatch((lambda: saving(simulation)) if saving else None)
        seen = Run(simulation, archive, watch)
        if change:
            change(simulation)
        _observe(seen)
        try:
            await simulation.loop.run(watch)  # type: ignore[arg-type]
        except BaseException as error:
            seen.error = error
        seen.ended = asyncio.get_running_loop().time()
        await asyncio.sleep(0)
        seen.tasks_left = len(asyncio.all_tasks()) - 1
        return seen

    return simulate(main())


def _observe(seen: Run) -> None:
    simulation = seen.simulation
    batches, learner, policy = simulation.loop.buffer.batches, simulation.loop.learner, simulation.policy
    batch, learn, train = batches.batch, learner.learn, policy.train

    async def begun(step: int) -> Any:
        seen.events.append(("begun", step))
        return await batch(step)

    async def learned(step: int, explored: Any, version: int = 0) -> Any:
        seen.events.append(("learned", step))
        seen.versions[step] = version
        return await learn(step, explored, version)

    async def trained(*arguments: Any) -> Any:
        engines = simulation.pool.engines
        seen.under_way_at_train.append(sum(engine.running for engine in engines))
        before = [engine.busy_seconds for engine in engines]
        try:
            return await train(*arguments)
        finally:
            after = [engine.busy_seconds for engine in engines]
            seen.decoded_at_train.append(sum(after) - sum(before))

    batches.batch, learner.learn, policy.train = begun, learned, trained


def leaf(error: BaseException | None) -> BaseException | None:
    """The first failure in an exception group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
