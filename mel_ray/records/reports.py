"""What an update, a step and an evaluation report."""

from collections.abc import Mapping
from dataclasses import dataclass

from mel_ray.records.ledger import Ledger

STATE_FILE = "driver.json"  # the driver's state; a checkpoint that has it is complete


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """Of the optimizer steps of one batch: metric name -> value, their number, and whether the weights have `moved`."""

    metrics: Mapping[str, float]
    optimizer_steps: int
    moved: bool = False


@dataclass(frozen=True, slots=True)
class StepReport:
    """One training step: its stable metrics (see docs/metrics.md) and its sample ledger."""

    step: int
    metrics: Mapping[str, float]
    ledger: Ledger


@dataclass(frozen=True, slots=True)
class EvalReport:
    """One evaluation of one benchmark: metric name without the benchmark -> value, e.g. `pass@1`."""

    benchmark: str
    step: int
    questions: int
    scores: Mapping[str, float]
