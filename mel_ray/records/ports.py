"""What the driver needs of the pools, as protocols: `mel_ray.pools` implements them on Ray, tests in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mel_ray.records.evaluation import Answered
from mel_ray.records.exploration import DraftTicket, Exploration, GroupTicket, ReplayTicket
from mel_ray.records.report import EvalReport, StepReport, UpdateReport
from mel_ray.records.trajectory import Prompt, Sampling
from mel_ray.records.update import KlEstimator, KlFacts, Shards, Update
from mel_ray.records.verdict import GroupVerdict


class Data(Protocol):
    """Where prompts come from, in a fixed order; `position` is the number taken so far."""

    @property
    def position(self) -> int: ...

    def take(self, count: int) -> list[Prompt]: ...


class Rollout(Protocol):
    """The rollout pool: Y ~ pi(. | x)."""

    async def generate(self, prompt: Prompt, sampling: Sampling) -> GroupTicket: ...


class Verifier(Protocol):
    """The verifier pool: V(y_i, y*) for every trajectory of a group (MEL Eq. 1)."""

    async def judge(self, group: GroupTicket) -> GroupVerdict: ...


class Experience(Protocol):
    """The experience pool: M ~ pi(. | I, x, y+, y-) and y_val ~ pi(. | x, M) (MEL Eqs. 2-6)."""

    async def abstract(self, group: GroupTicket, verdict: GroupVerdict, step: int) -> Sequence[DraftTicket]: ...

    async def replay(self, draft: DraftTicket, step: int) -> ReplayTicket: ...


class Policy(Protocol):
    """The policy pool: optimizer steps, and publishing what came of them."""

    ranks: int

    async def train(self, update: Update) -> UpdateReport: ...

    async def divergence(self, shards: Shards, estimator: KlEstimator) -> Sequence[Sequence[Sequence[KlFacts]]]:
        """KL of every sequence to the initial policy, in the order of the shards: [rank][microbatch][sequence]."""
        ...

    async def publish(self, version: int) -> None: ...

    async def save(self, folder: Path) -> None: ...

    async def export(self, folder: Path) -> None: ...


class Saver(Protocol):
    """Whoever has something to put into a checkpoint folder."""

    async def save(self, folder: Path) -> None: ...


class Engines(Protocol):
    """All engines, whosever they are."""

    async def busy_share(self) -> float:
        """Mean share of the time since the last call in which an engine had work; in [0, 1]."""
        ...


class Archive(Protocol):
    """Whoever writes trajectories and experiences to the run folder; only it follows the refs."""

    async def record(self, step: int, explored: Sequence[Exploration]) -> None: ...


class Journal(Protocol):
    """Remembers an evaluation's answers, texts included; only it follows the refs."""

    def find(self, question_id: str, temperature: float, count: int) -> Answered | None:
        """What is already known, so that it need not be asked again."""
        ...

    async def add(self, group: GroupTicket, verdict: GroupVerdict, temperature: float) -> None: ...

    async def close(self) -> None:
        """The evaluation is complete."""
        ...


class Journals(Protocol):
    """Opens the journal of an evaluation during training."""

    def open(self, benchmark: str, step: int) -> Journal: ...


class Sink(Protocol):
    """Whoever wants to hear of progress: metrics file, terminal, W&B, Ray."""

    def step(self, report: StepReport) -> None: ...

    def evaluation(self, report: EvalReport) -> None: ...

    def close(self, status: str) -> None: ...
