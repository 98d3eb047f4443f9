"""The training loop: evaluate, step, checkpoint, until the steps are done."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mel_ray.config.schema import Config
from mel_ray.run.checkpoints import Checkpoints
from mel_ray.evaluation.evaluator import Benchmark, Evaluator
from mel_ray.records.ports import Journals, Policy, Sink
from mel_ray.driver.state import DriverState
from mel_ray.driver.step import Stepper
from mel_ray.records.ledger import Ledger
from mel_ray.records.report import EvalReport, StepReport


@dataclass(slots=True)
class Progress:
    """What has happened so far; readable at any time, also after an interruption."""

    state: DriverState
    evaluations: list[EvalReport] = field(default_factory=list)
    last: StepReport | None = None

    def add(self, report: StepReport, position: int, version: int) -> None:
        ledger: Ledger = self.state.ledger + report.ledger
        self.state = DriverState(report.step, position, version, ledger)
        self.last = report


class Loop:
    def __init__(
        self,
        cfg: Config,
        stepper: Stepper,
        policy: Policy,
        evaluator: Evaluator,
        benchmarks: Sequence[Benchmark],
        journals: Journals,
        checkpoints: Checkpoints,
        sinks: Sequence[Sink],
        progress: Progress,
    ) -> None:
        self.cfg, self.stepper, self.policy = cfg, stepper, policy
        self.evaluator, self.benchmarks, self.checkpoints = evaluator, benchmarks, checkpoints
        self.journals = journals
        self.sinks, self.progress = sinks, progress

    async def run(self) -> None:
        first, last = self.progress.state.step + 1, self.cfg.run.steps
        self.stepper.version = self.progress.state.version
        await self.policy.publish(self.stepper.version)  # the engines start from the trainer's very weights
        if first == 1 and self.cfg.eval.before:
            await self.evaluate(0)
        for step in range(first, last + 1):
            report = await self.stepper.step(step)
            self.progress.add(report, self.stepper.data.position, self.stepper.version)
            for sink in self.sinks:
                sink.step(report)
            if self._is_due(self.cfg.eval.every, step) and step < last:
                await self.evaluate(step)
            if self._is_due(self.cfg.checkpoint.every, step) and step < last:
                await self.checkpoints.save(self.progress.state)
        await self.checkpoints.save(self.progress.state)  # before anything else can fail
        if self.cfg.eval.after:
            await self.evaluate(last)

    async def evaluate(self, step: int) -> None:
        for benchmark in self.benchmarks:
            journal = self.journals.open(benchmark.name, step)
            report = await self.evaluator.evaluate(benchmark, step, journal)
            await journal.close()
            self.progress.evaluations.append(report)
            for sink in self.sinks:
                sink.evaluation(report)

    @staticmethod
    def _is_due(every: int, step: int) -> bool:
        return every > 0 and step % every == 0
