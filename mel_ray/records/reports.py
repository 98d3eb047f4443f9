"""What an update, a step and an evaluation report."""

from collections.abc import Mapping
from dataclasses import dataclass

from mel_ray.records.ledger import Ledger

STATE_FILE = "driver.json"  # the driver's state; a checkpoint that has it is complete


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """Of the optimizer steps of one batch: metric name -> value, their number, whether the weights have `moved`, and
    how many were `skipped` because of their gradient."""

    metrics: Mapping[str, float]
    optimizer_steps: int
    moved: bool = False
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class EngineClock:
    """What one engine did since it was last asked. Tokens are counted when their sequence ends.

    Sequences that share a prompt compute it once, so `recomputed_tokens` is an upper bound.
    """

    busy_seconds: float  # with at least one request and not paused
    paused_seconds: float
    sampled_tokens: int
    recomputed_tokens: int  # of prompts and completions, because an update cleared the cache under them


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a rank computes on, as the driver of the device calls it (`cpu` on CPU), and what it computes."""

    device: str = "cpu"
    dtype: str = "float32"
    parameters: int = 0


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
