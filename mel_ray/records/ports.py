"""What the driver and the pools need of each other, as protocols: the pools implement them on Ray, tests in memory."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from mel_ray.records.evaluation import Answered, Benchmark
from mel_ray.records.incident import Incident, IncidentKind, Losses
from mel_ray.records.reports import DeviceFacts, EvalReport, StepReport, UpdateReport
from mel_ray.records.row import Ref, Row
from mel_ray.records.step import OptimizerStep, Shards, TrainSettings
from mel_ray.records.trajectory import Floats, Group, Prompt, Sampling

T = TypeVar("T")


class Data(Protocol):
    """Where prompts come from, in a fixed order; `position` is the number taken so far."""

    @property
    def position(self) -> int: ...

    def __len__(self) -> int:
        """How many different questions there are."""
        ...

    def take(self, count: int) -> list[Prompt]: ...


class Turn(IntEnum):
    """Who is served first where engines are full; within a turn, who came first."""

    STARTED = 0  # drafts and replays of questions that were begun, so that batches close early
    NEW = 1
    EVALUATION = 2


Sample = tuple[str, str]  # question, and what is sampled for it: rollout, drafts, or replay-<number of the draft>


class Rollout(Protocol):
    """The rollout pool: Y ~ pi(. | x)."""

    async def generate(self, prompt: Prompt, sampling: Sampling, turn: Turn = Turn.NEW) -> tuple[Row, ...]:
        """
        Raises:
            Poison: two engines did not survive it.
        """
        ...


class Rewards(Protocol):
    """The rewards pool: V(y_i, y*) for every trajectory of a group (MEL Eq. 1)."""

    async def judge(self, group: Sequence[Row]) -> tuple[Row, ...]:
        """The same rows with their verdicts; all rows are of one group."""
        ...


class Experience(Protocol):
    """The experience pool: M ~ pi(. | I, x, y+, y-) and y_val ~ pi(. | x, M) (MEL Eqs. 2-6).

    Both raise Poison where two engines or two actors did not survive it.
    """

    async def abstract(self, judged: Sequence[Row], step: int) -> tuple[Row, ...]:
        """A row per draft about a mixed or an all-wrong group."""
        ...

    async def replay(self, draft: Row, step: int, other: Row | None = None) -> tuple[Row, ...]:
        """A row per replay of a draft that parsed; `other` is a draft about another question."""
        ...

    async def recall(self, judged: Sequence[Row], lesson: Row, step: int) -> tuple[Row, ...]:
        """A row per replay of a judged group's question with a draft about another one; none where it does not fit."""
        ...


class Policy(Protocol):
    """The policy pool: optimizer steps, and scoring without gradient.

    A batch is cut into as many `shards`; ranks that share one count once.
    """

    ranks: int
    shards: int
    facts: DeviceFacts

    async def train(self, steps: Sequence[OptimizerStep], settings: TrainSettings) -> UpdateReport: ...

    async def score(self, shards: Shards, of_reference: bool = False) -> list[list[list[Floats]]]:
        """Logprobs of every row's trained tokens under the current policy or the reference, each row read as a
        continuation of its own context: [shard][microbatch][row], arrays [trained tokens]."""
        ...

    async def rest(self) -> None:
        """Leave the devices to the engines that share them."""
        ...

    async def save(self, folder: Path) -> None: ...

    async def export(self, folder: Path) -> None: ...


class Publisher(Protocol):
    """Gives every engine the policy's weights as `version`, and makes sure that they arrived."""

    @property
    def moving(self) -> AbstractAsyncContextManager[Any]:
        """Held while the policy's weights are not those of the engines."""
        ...

    async def publish(self, version: int, keep_kv: bool = False) -> None:
        """With `keep_kv`, running requests go on with the keys and values of the old weights."""
        ...


class Sampler(Protocol):
    """An engine as an actor sees it."""

    async def generate(self, prompt: Prompt, sampling: Sampling) -> tuple[Group, tuple[Row, ...]]: ...


class Engine(Protocol):
    """A handle to one engine: to sample with, and to give weights to. Every call has a deadline."""

    @property
    def name(self) -> str: ...

    @property
    def log(self) -> Path | None: ...

    @property
    def sampler(self) -> Any:
        """What another actor is given to sample with this engine."""
        ...

    async def connect_weights(self, info: dict[str, Any]) -> None: ...

    async def disconnect_weights(self) -> None: ...

    async def begin_update(self) -> None: ...

    async def receive(self, info: dict[str, Any]) -> None: ...

    async def finish_update(self, version: int, keep_kv: bool = False) -> str: ...


class Engines(Protocol):
    """All engines of a run."""

    @property
    def engines(self) -> Sequence[Engine]:
        """Those that can be used."""
        ...

    async def measures(self) -> dict[str, float]:
        """Metrics of what the engines did since the last call."""
        ...

    def replace(self, engine: Engine, why: Exception) -> None:
        """Start another one in its place, which is given weights before it is used."""
        ...

    async def drain(self) -> None:
        """Start no request until `resume`, and wait until none is running."""
        ...

    async def pause(self) -> None:
        """Freeze all requests where they are until `resume`; new ones wait."""
        ...

    async def resume(self) -> None: ...

    async def sleep(self) -> None:
        """Leave the GPUs to the policy; nothing may be running."""
        ...

    async def wake(self, part: Literal["weights", "kv_cache"]) -> None:
        """Take memory again, for weights that are then published, and for keys and values."""
        ...


class Lender(Protocol):
    """Lends engines to those who sample, the least loaded one first; waits while all are full."""

    async def on_engine(self, sequences: int, turn: Turn, ask: Callable[[Engine], Awaitable[T]]) -> T: ...


class WeightSource(Protocol):
    """The policy's end of a weight transport."""

    async def address(self) -> tuple[str, int]:
        """Where receivers can find rank 0: its node's address and a free port on it."""
        ...

    async def open_sender(self, transport: str, address: str, port: int, world: int, delta: bool) -> None:
        """Waits for all receivers where the transport has a rendezvous."""
        ...

    async def update_info(self) -> dict[str, Any]:
        """What receivers are told before weights are sent."""
        ...

    async def send(self) -> str:
        """Gather and send all weights; returns their checksum."""
        ...

    async def close_sender(self) -> None: ...


class ObjectStore(Protocol):
    """Follows references to records."""

    async def get(self, refs: Sequence[Ref]) -> list[Any]: ...

    def put(self, record: Any) -> Ref: ...


class Saver(Protocol):
    """Anything that has something to put into a checkpoint folder."""

    async def save(self, folder: Path) -> None: ...


class Writer(Protocol):
    """Copies at once what belongs into a checkpoint, and writes it later."""

    async def snapshot(self, folder: Path) -> None:
        """Copy what `write` will put into `folder`."""
        ...

    async def write(self) -> None: ...


class Shadowed(Protocol):
    """Copies its state at once, and then keeps the copy where it outlives the processes."""

    async def shadow(self) -> None:
        """Copy what `pack` will keep."""
        ...

    async def pack(self) -> list[Ref]: ...


class Health(Protocol):
    """What the pools lost and replaced, and what else went wrong."""

    def tell(self, kind: IncidentKind, who: str, text: str) -> None: ...

    def take(self) -> Losses:
        """Since the last call."""
        ...


class Archive(Protocol):
    """Writes trajectories and experiences to the run folder."""

    async def record(self, step: int, rows: Sequence[Row], version: int = 0) -> None:
        """`version`: the weights that the policy has when it trains on them."""
        ...


class Journal(Protocol):
    """Remembers an evaluation's answers, texts included."""

    def find(self, question_id: str, temperature: float, count: int) -> Answered | None:
        """What is already known, so that it need not be asked again."""
        ...

    async def add(self, judged: Sequence[Row], temperature: float) -> None: ...

    async def close(self) -> None:
        """The evaluation is complete."""
        ...


class Journals(Protocol):
    """Opens the journal of an evaluation during training."""

    def open(self, benchmark: str, step: int) -> Journal: ...


class Evaluation(Protocol):
    """Answers a benchmark's questions with the engines as they are."""

    async def evaluate(self, benchmark: Benchmark, step: int, journal: Journal) -> EvalReport: ...


class Sink(Protocol):
    """Hears of progress: metrics file, terminal, W&B, Ray."""

    def step(self, report: StepReport) -> None: ...

    def incident(self, incident: Incident) -> None: ...

    def evaluation(self, report: EvalReport) -> None: ...

    def close(self, status: str) -> None: ...
