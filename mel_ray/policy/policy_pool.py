"""The policy pool: one actor per ZeRO-3 rank, and all ranks as one.

Consumes optimizer steps made of rows, produces metrics, logprobs and weights. All ranks run in step; the pool waits for
all of them.
"""

import asyncio
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, ParamSpec, TypeVar

import ray

from mel_ray.actors.handles import SIGN_OF_LIFE, WATCH, WATCHED, WRITE, Handle, stored
from mel_ray.actors.placement import Placement, options_of
from mel_ray.actors.process import CPU_POLICY_ENV, GPU_POLICY_ENV, redirect_output, runtime_env
from mel_ray.config.cluster import DeadlineConfig
from mel_ray.config.plan import PoolPlan
from mel_ray.data.model_folder import on_this_node
from mel_ray.policy.policy_settings import PolicySettings, Rendezvous
from mel_ray.policy.sequences import train_sequence
from mel_ray.policy.statistics import StepMeasures, merge_ranks, update_metrics
from mel_ray.records.incident import LostActor, OutOfMemory, PoolError
from mel_ray.records.reports import DeviceFacts, UpdateReport
from mel_ray.records.row import Ref, Row
from mel_ray.records.step import OptimizerStep, Shards, TrainSequence, TrainSettings
from mel_ray.records.trajectory import Floats

if TYPE_CHECKING:
    from mel_ray.policy.snapshots import Files

Shard = Sequence[Sequence[Row]]  # one rank's microbatches


@contextmanager
def _memory_told() -> Iterator[None]:
    """
    Raises:
        OutOfMemory: torch could not get the memory it needed.
    """
    try:
        yield
    except RuntimeError as error:
        if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
            raise OutOfMemory(str(error)) from error
        raise


NOWHERE = Path("nowhere")  # the folder of a checkpoint that gets no files


class PolicyActor:
    def __init__(self, settings: PolicySettings, log: Path | None) -> None:
        redirect_output(log)
        self._settings = replace(settings, model=str(on_this_node(Path(settings.model))))
        self._sender: Any = None  # a WeightSender, once it is open
        self._listener: socket.socket | None = None  # of rank 0

    def address(self, is_one_machine: bool) -> tuple[str, int]:
        """This node's address and a port on it, which is held until those who meet there use it."""
        if self._listener is not None:
            self._listener.close()
        address = "127.0.0.1" if is_one_machine else ray.util.get_node_ip_address()
        self._listener = socket.create_server((address, 0))
        return address, self._listener.getsockname()[1]

    def _take_listener(self) -> socket.socket | None:
        listener, self._listener = self._listener, None
        return listener

    def start(self, rendezvous: Rendezvous) -> DeviceFacts:
        from mel_ray.policy.zero3 import Zero3Policy  # torch and DeepSpeed: for the ranks, not for the driver

        self._policy = Zero3Policy(self._settings, rendezvous, self._take_listener())
        self._rank = rendezvous.rank
        return self._policy.facts

    def train(self, steps: Sequence[OptimizerStep], settings: TrainSettings) -> list[StepMeasures]:
        """All optimizer steps of a batch; each holds this rank's shard alone."""
        with _memory_told():
            return self._policy.update([(step, self._resolve(step.shards[0])) for step in steps], settings)

    def score(self, shard: Shard, of_reference: bool) -> list[list[Floats]]:
        with _memory_told():
            return self._policy.score(self._resolve(shard), of_reference)

    @ray.method(concurrency_group=WATCH)
    def ping(self) -> None:
        return None

    def _resolve(self, shard: Shard) -> list[list[TrainSequence]]:
        rows = [row for microbatch in shard for row in microbatch]
        refs: list[Any] = list({ref for row in rows for ref in (row.ref, row.context) if ref is not None})
        records = dict(zip(refs, ray.get(refs), strict=True))
        return [[train_sequence(row, records) for row in microbatch] for microbatch in shard]

    def open_sender(self, transport: str, address: str, port: int, world: int, delta: bool) -> None:
        """Rank 0 only; waits for the engines to connect where the transport has a rendezvous."""
        from mel_ray.weights.sender import Meeting, make_sender

        meeting = Meeting(address, port, world, self._take_listener())
        self._sender = make_sender(transport, self._policy.weight_metas(), meeting, delta)

    def send(self) -> str:
        """Gather all weights (collective); rank 0 sends them and returns their checksum."""
        if self._rank == 0:
            return self._sender.send(self._policy.weights())
        for _ in self._policy.weights():
            pass
        return ""

    def rest(self) -> None:
        self._policy.rest()

    def update_info(self) -> dict[str, Any]:
        return self._sender.update_info()

    def close_sender(self) -> None:
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def snapshot(self, folder: Path) -> None:
        self._to_write = self._policy.snapshot(folder)

    @ray.method(concurrency_group=WRITE)
    def write(self) -> None:
        self._to_write.write()

    def shadow(self) -> None:
        self._to_pack = self._policy.snapshot(NOWHERE)

    @ray.method(concurrency_group=WRITE)
    def pack(self) -> "tuple[Files, None]":
        return self._to_pack.packed(NOWHERE), None

    def restore(self, files: "Files") -> None:
        self._policy.restore(files)

    def convert(self, checkpoint: Path, folder: Path) -> None:
        """Write a checkpoint so that any number of ranks can load it; one rank does it, alone."""
        from mel_ray.policy.universal import convert

        convert(checkpoint, folder)

    def load(self, folder: Path) -> None:
        self._policy.load(folder)

    def export(self, folder: Path) -> None:
        self._policy.export(folder, Path(self._settings.model))

    def verify_export(self, folder: Path) -> float:
        return self._policy.verify_export(folder)


EXPORT_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.25}  # nats, largest difference of a token's logprob
CONVERSION = 4  # times as long as saving: everything is read and written twice
WATCHES = 3  # times within the seconds after which a silent rank counts as hung
GRACE = 10.0  # seconds in which a rank answers, unless it is the cause of another one's failure
P = ParamSpec("P")
R = TypeVar("R")


class PolicyPool:
    """As many ranks as the plan says. Rank 0 sends weights to the engines (`records/ports.py:WeightSource`)."""

    def __init__(
        self, plan: PoolPlan, settings: PolicySettings, deadlines: DeadlineConfig, logs: Path | None,
        placement: Placement | None = None,
    ) -> None:  # fmt: skip
        self.ranks, self.facts = plan.actors, DeviceFacts()
        self._sharers = settings.sequence_parallel
        self.shards = plan.actors // self._sharers
        self._shard_of_rank = [rank // self._sharers for rank in range(plan.actors)]
        self._settings, self._deadlines = settings, deadlines
        environment = runtime_env(CPU_POLICY_ENV if settings.device == "cpu" else GPU_POLICY_ENV, threads=plan.threads)

        def start(rank: int) -> Handle[PolicyActor]:
            log = logs / f"{plan.name}-{rank}.log" if logs else None
            options = options_of(plan, rank, placement)
            started = WATCHED(PolicyActor).options(runtime_env=environment, **options).remote(settings, log)
            return Handle(f"{plan.name} rank {rank}", started, log)

        self.handles = [start(rank) for rank in range(plan.actors)]
        self._files = asyncio.Lock()  # while they are read or written, a rank may give no sign of life

    async def ready(self) -> None:
        """Join the ranks and load the model on all of them."""
        address, port = await self.address()
        rendezvous = [Rendezvous(rank, 0, self.ranks, address, port) for rank in range(self.ranks)]
        self.facts, *_ = await asyncio.gather(
            *(
                handle.ask(PolicyActor.start, self._deadlines.start, "", own)
                for handle, own in zip(self.handles, rendezvous, strict=True)
            )
        )

    async def _on_all(
        self, method: Callable[Concatenate[PolicyActor, P], R], seconds: float, *arguments: P.args, **named: P.kwargs
    ) -> list[R]:
        """The same call on every rank."""
        return await asyncio.gather(*(handle.ask(method, seconds, "", *arguments, **named) for handle in self.handles))

    async def _together(
        self, method: Callable[Concatenate[PolicyActor, P], R], seconds: float, *arguments: P.args, **named: P.kwargs
    ) -> None:
        """The same collective call on every rank.

        Raises:
            LostActor: a rank failed where others did not, which now wait for it.
        """
        asked = [asyncio.ensure_future(one.ask(method, seconds, "", *arguments, **named)) for one in self.handles]
        try:
            done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_EXCEPTION)
            failed = next((number for number, one in enumerate(asked) if one in done and one.exception()), None)
            if failed is None:
                return
            await asyncio.wait(asked, timeout=GRACE)
            error = asked[failed].exception()
            if all(one.done() and one.exception() for one in asked) or isinstance(error, LostActor):
                raise error or PoolError(f"{method.__name__} failed")
            raise LostActor(f"{error} The other ranks wait for it.", None, self.handles[failed].name)
        finally:
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    # -- signs of life

    async def watched(self, seconds: float) -> NoReturn:
        """Never ends while every rank gives a sign of life within as many seconds.

        Raises:
            LostActor: one does not.
        """
        while True:
            async with self._files:
                await self._pinged(seconds)
            await asyncio.sleep(seconds / WATCHES)

    async def _pinged(self, seconds: float) -> None:
        await asyncio.gather(*(handle.ask(PolicyActor.ping, seconds, SIGN_OF_LIFE) for handle in self.handles))

    async def loss_behind(self, error: PoolError) -> LostActor | None:
        """The lost rank that explains a failure: those that worked with it may be heard of first."""
        if isinstance(error, LostActor) and any(handle.name == error.who for handle in self.handles):
            return error
        try:
            await self._pinged(GRACE)
        except LostActor as lost:
            return lost
        return None

    # -- training

    async def train(self, steps: Sequence[OptimizerStep], settings: TrainSettings) -> UpdateReport:
        """All optimizer steps of a batch (MEL Eq. 10); none where nothing carries signal."""
        if not steps and settings.slow_rate is None:
            return UpdateReport(update_metrics([], 0), 0)
        per_rank = await asyncio.gather(
            *(
                handle.ask(
                    PolicyActor.train, self._deadlines.train, "", [step.of_rank(shard) for step in steps], settings
                )
                for shard, handle in zip(self._shard_of_rank, self.handles)
            )
        )
        per_rank = per_rank[:: self._sharers]  # those who share a microbatch measure the same
        count = len(steps) * settings.epochs
        merged = [merge_ranks([measured[k] for measured in per_rank]) for k in range(count)]
        skipped = sum(1 for step in merged if step.is_skipped)
        return UpdateReport(
            update_metrics(merged, count), count, skipped < count or settings.slow_rate is not None, skipped
        )

    async def score(self, shards: Shards, of_reference: bool = False) -> list[list[list[Floats]]]:
        """Logprobs without gradient: [shard][microbatch][row], arrays [trained tokens]."""
        scored = await asyncio.gather(
            *(
                handle.ask(PolicyActor.score, self._deadlines.train, "", shards[shard], of_reference)
                for shard, handle in zip(self._shard_of_rank, self.handles)
            )
        )
        return scored[:: self._sharers]

    async def rest(self) -> None:
        """Leave the GPUs to the engines; the ranks keep what they need."""
        await self._on_all(PolicyActor.rest, self._deadlines.publish)

    # -- weights

    async def address(self) -> tuple[str, int]:
        is_one_machine = not os.environ.get("RAY_ADDRESS")
        return await self.handles[0].ask(PolicyActor.address, self._deadlines.start, "", is_one_machine)

    async def open_sender(self, transport: str, address: str, port: int, world: int, delta: bool) -> None:
        how = (transport, address, port, world, delta)
        await self.handles[0].ask(PolicyActor.open_sender, self._deadlines.start, "", *how)

    async def update_info(self) -> dict[str, Any]:
        return await self.handles[0].ask(PolicyActor.update_info, self._deadlines.publish)

    async def send(self) -> str:
        return (await self._on_all(PolicyActor.send, self._deadlines.publish))[0]

    async def close_sender(self) -> None:
        await self.handles[0].ask(PolicyActor.close_sender, self._deadlines.publish)

    # -- durability

    async def save(self, folder: Path) -> None:
        await self.snapshot(folder)
        await self.write()

    async def snapshot(self, folder: Path) -> None:
        """Copy to host memory what `write` will put into `folder`."""
        (folder / "policy").mkdir(parents=True, exist_ok=True)  # here: a rank that failed to would hang the others
        await self._together(PolicyActor.snapshot, self._deadlines.checkpoint, folder)

    async def write(self) -> None:
        await self._on_all(PolicyActor.write, self._deadlines.checkpoint)

    async def shadow(self) -> None:
        """Copy to host memory what `pack` will put into the object store."""
        await self._together(PolicyActor.shadow, self._deadlines.checkpoint)

    async def pack(self) -> list[Ref]:
        """Each rank's part of the copy, which outlives the rank."""
        seconds = self._deadlines.checkpoint
        parts = await asyncio.gather(*(one.ask_stored(PolicyActor.pack, seconds, "") for one in self.handles))
        return [part for part, _ in parts]

    async def restore(self, parts: Sequence[Ref]) -> None:
        """Load what `pack` returned.

        Raises:
            LostRecords: a part was on a node that is gone.
        """
        asked = zip(self.handles, parts, strict=True)
        seconds = self._deadlines.checkpoint
        await asyncio.gather(*(one.ask(PolicyActor.restore, seconds, "", stored(part, dict)) for one, part in asked))

    async def load(self, folder: Path) -> None:
        """Restore a checkpoint. One of another number of ranks is first written in a form that fits any, beside it."""
        written_by = len(list((folder / "policy").glob("zero_pp_rank_*_model_states.pt")))
        if written_by in (0, self.ranks):
            await self._on_all(PolicyActor.load, self._deadlines.checkpoint, folder)
            return
        whole = folder.with_name(f".{folder.name}.universal")
        shutil.rmtree(whole, ignore_errors=True)
        try:
            seconds = CONVERSION * self._deadlines.checkpoint
            await self.handles[0].ask(PolicyActor.convert, seconds, "", folder, whole)
            await self._on_all(PolicyActor.load, self._deadlines.checkpoint, whole)
        finally:
            shutil.rmtree(whole, ignore_errors=True)

    async def export(self, folder: Path) -> None:
        """Write a Hugging Face folder and compare it, reloaded, with the trained policy.

        Raises:
            PoolError: the reloaded model differs.
        """
        async with self._files:
            await self._on_all(PolicyActor.export, self._deadlines.checkpoint, folder)
            difference = max(await self._on_all(PolicyActor.verify_export, self._deadlines.checkpoint, folder))
        if not difference <= EXPORT_TOLERANCE[self._settings.dtype]:
            raise PoolError(f"the exported model in {folder} differs from the trained one by {difference:.3g} nats")

    def kill(self) -> None:
        for handle in self.handles:
            handle.kill()
