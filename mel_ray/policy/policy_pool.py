"""The policy pool: ZeRO-3 ranks as Ray actors, and the weights they publish to every engine.

Consumes shards of refs and weights, produces updates. All ranks run in step; the pool waits for all of them.
"""

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from mel_ray.config.schema import ClusterConfig
from mel_ray.policy.settings import ParameterMeta, PolicySettings, Rendezvous, dense_update_info
from mel_ray.mel.internalize import lesson_sequence
from mel_ray.actors.process import CPU_POLICY_ENV, redirect_output, runtime_env
from mel_ray.rollout.engine_pool import AllEngines, Engine
from mel_ray.actors.waiting import PoolError, settle
from mel_ray.records.report import UpdateReport
from mel_ray.records.sequence import SequenceKind, SequenceSpec, TrainSequence
from mel_ray.records.update import KlEstimator, KlFacts, OptimizerStep, RankSums, Shards, Update
from mel_ray.policy.sequences import trajectory_sequence
from mel_ray.policy.update_metrics import merge_ranks, update_metrics

EXPORT_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.25}  # nats, largest difference of a token's logprob


class PolicyActor:
    """One ZeRO-3 rank."""

    def __init__(self, settings: PolicySettings, log: Path | None) -> None:
        redirect_output(log)
        self._settings = settings

    def address(self) -> tuple[str, int]:
        """This node's address and a free port on it."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def start(self, rendezvous: Rendezvous) -> list[ParameterMeta]:
        from mel_ray.policy.zero3 import Zero3Policy  # torch and DeepSpeed: for the ranks, not for the driver

        self._policy = Zero3Policy(self._settings, rendezvous)
        self._rank = rendezvous.rank
        return self._policy.weight_metas()

    def train(self, update: Update) -> list[RankSums]:
        """All optimizer steps of the batch. Where a step comes before another on trajectories, the ratio's
        denominator is computed before the first."""
        steps = [(step, self._resolve(step)) for step in update.steps]
        has_old = update.epochs > 1 or any(step.optimizer == "policy" for step in update.steps[1:])
        has_reference = update.loss.needs_reference
        old = [self._policy.logprobs(m) if has_old else None for _, m in steps]
        reference = [self._policy.logprobs(m, of_reference=True) if has_reference else None for _, m in steps]
        result = []
        for _ in range(update.epochs):
            for (step, microbatches), before, initial in zip(steps, old, reference, strict=True):
                result.append(self._policy.step(microbatches, step, update.lr, update.loss, before, initial))
        if update.slow_rate is not None:
            self._policy.interpolate(update.slow_rate)
        return result

    def divergence(self, step: OptimizerStep, estimator: KlEstimator) -> list[list[KlFacts]]:
        return self._policy.divergence(self._resolve(step), estimator)

    def _resolve(self, step: OptimizerStep) -> list[list[TrainSequence]]:
        """The sequences of this rank's shard; the step holds no other rank's."""
        (shard,) = step.shards
        specs = [spec for microbatch in shard for spec in microbatch]
        refs = list({ref for spec in specs for ref in (spec.ref, spec.context_ref) if ref is not None})
        records = dict(zip(refs, ray.get(refs), strict=True))

        def build(spec: SequenceSpec) -> TrainSequence:
            record = records[spec.ref]
            if spec.kind is SequenceKind.TRAJECTORY:
                return trajectory_sequence(spec, record)
            source = record[spec.index] if spec.kind is SequenceKind.EXPERIENCE else record
            return lesson_sequence(spec, source, records[spec.context_ref] if spec.context_ref is not None else None)

        return [[build(spec) for spec in microbatch] for microbatch in shard]

    def open_sender(self, transport: str, metas: list[ParameterMeta], address: str, port: int, world: int) -> None:
        """Rank 0 only; waits for the engines to connect where the transport has a rendezvous."""
        from mel_ray.weights.weight_sender import make_sender

        self._sender = make_sender(transport, metas, address, port, world)

    def send(self) -> tuple[str, dict[str, Any]] | None:
        """Gather all weights (collective); rank 0 sends them and returns checksum and update info."""
        if self._rank == 0:
            checksum = self._sender.send(self._policy.weights())
            return checksum, self._sender.update_info()
        for _ in self._policy.weights():
            pass
        return None

    def clean_up_sender(self) -> None:
        self._sender.clean_up()

    def save(self, folder: Path) -> None:
        self._policy.save(folder)

    def load(self, folder: Path) -> None:
        self._policy.load(folder)

    def export(self, folder: Path) -> None:
        self._policy.export(folder, Path(self._settings.model))

    def verify_export(self, folder: Path) -> float:
        return self._policy.verify_export(folder)


class PolicyPool:
    """All ranks behind one handle."""

    def __init__(
        self, cluster: ClusterConfig, settings: PolicySettings, tensor_parallel: int, logs: Path | None
    ) -> None:
        pool, is_cpu = cluster.policy, cluster.device == "cpu"
        self.ranks = pool.ranks
        self._settings, self._cluster, self._tensor_parallel = settings, cluster, tensor_parallel
        self._logs = [logs / f"policy-{rank}.log" if logs else None for rank in range(pool.ranks)]
        options: dict[str, Any] = {
            "num_cpus": pool.cpus,
            "num_gpus": 0 if is_cpu else 1,
            "runtime_env": runtime_env(CPU_POLICY_ENV if is_cpu else {}, threads=pool.threads),
        }
        self.actors = [ray.remote(PolicyActor).options(**options).remote(settings, log) for log in self._logs]
        self._metas: list[ParameterMeta] = []
        self._engines: AllEngines | None = None
        self.checksum = ""  # of the weights published last

    async def ready(self) -> None:
        """Join the ranks and load the model on all of them."""
        seconds = self._cluster.deadlines.start
        address, port = await self._on_first("address", seconds)
        calls = [
            settle(actor.start.remote(Rendezvous(rank, 0, self.ranks, address, port)), f"policy rank {rank}", seconds,
                   self._logs[rank])
            for rank, actor in enumerate(self.actors)
        ]  # fmt: skip
        self._metas = (await asyncio.gather(*calls))[0]

    async def _on_all(self, method: str, seconds: float, *arguments: Any) -> list[Any]:
        calls = [
            settle(getattr(actor, method).remote(*arguments), f"policy rank {rank}, {method}", seconds, log)
            for rank, (actor, log) in enumerate(zip(self.actors, self._logs, strict=True))
        ]
        return await asyncio.gather(*calls)

    async def _on_first(self, method: str, seconds: float, *arguments: Any) -> Any:
        ref = getattr(self.actors[0], method).remote(*arguments)
        return await settle(ref, f"policy rank 0, {method}", seconds, self._logs[0])

    async def train(self, update: Update) -> UpdateReport:
        """All optimizer steps of a batch (MEL Eq. 10); none where nothing carries signal."""
        if not update.steps and update.slow_rate is None:
            return UpdateReport(update_metrics([], 0), 0)
        per_rank = await self._on_ranks("train", [(update.of_rank(rank),) for rank in range(self.ranks)])
        count = len(update.steps) * update.epochs
        merged = [merge_ranks([steps[k] for steps in per_rank]) for k in range(count)]
        return UpdateReport(update_metrics(merged, count), count, moved=True)

    async def divergence(self, shards: Shards, estimator: KlEstimator) -> list[list[list[KlFacts]]]:
        """KL of every sequence to the initial policy, in the order of the shards: [rank][microbatch][sequence]."""
        steps = [(OptimizerStep((shards[rank],)), estimator) for rank in range(self.ranks)]
        return await self._on_ranks("divergence", steps)

    async def _on_ranks(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        calls = [
            settle(getattr(actor, method).remote(*own), f"policy rank {rank}, {method}", self._cluster.deadlines.train,
                   self._logs[rank])
            for rank, (actor, own) in enumerate(zip(self.actors, arguments, strict=True))
        ]  # fmt: skip
        return await asyncio.gather(*calls)

    # -- publishing weights

    async def connect(self, engines: AllEngines) -> None:
        """Open the transport between rank 0 and every worker of every engine."""
        self._engines = engines
        transport, seconds = self.transport, self._cluster.deadlines.start
        address, port = await self._on_first("address", seconds)
        world = 1 + len(engines.engines) * self._tensor_parallel
        opening = [self._on_first("open_sender", seconds, transport, self._metas, address, port, world)]
        for index, engine in enumerate(engines.engines):
            info: dict[str, Any] = {}
            if transport != "shm":
                offset = 1 + index * self._tensor_parallel
                info = {"master_address": address, "master_port": port, "rank_offset": offset, "world_size": world}
            if transport == "nccl":
                info["packed"] = True
            opening.append(self._on_engine(engine, "connect_weights", seconds, info))
        await asyncio.gather(*opening)

    @property
    def transport(self) -> str:
        return weight_transport(self._cluster)

    async def publish(self, version: int) -> None:
        """Give every engine the current weights as `version` and compare checksums.

        An engine whose checksum differs is restarted and served again, once.

        Raises:
            PoolError: an engine's checksum differs twice.
        """
        broken = await self._publish_once(version)
        if not broken:
            return
        for engine in broken:
            await self._require_engines().restart(engine)
        await self.connect(self._require_engines())
        if broken := await self._publish_once(version):
            names = ", ".join(engine.name for engine in broken)
            raise PoolError(f"weights arrived damaged on {names}, also after a restart", broken[0].log)

    async def _publish_once(self, version: int) -> list[Engine]:
        engines, seconds = self._require_engines().engines, self._cluster.deadlines.publish
        await asyncio.gather(*(self._on_engine(engine, "begin_update", seconds) for engine in engines))
        if self.transport == "shm":
            sent = (await self._on_all("send", seconds))[0]
            try:
                await asyncio.gather(*(self._on_engine(engine, "receive", seconds, sent[1]) for engine in engines))
            finally:
                await self._on_first("clean_up_sender", seconds)
        else:
            info = dense_update_info(self._metas)
            receiving = [self._on_engine(engine, "receive", seconds, info) for engine in engines]
            sent = (await asyncio.gather(self._on_all("send", seconds), *receiving))[0][0]
        finishing = [self._on_engine(engine, "finish_update", seconds, version) for engine in engines]
        received = await asyncio.gather(*finishing)
        self.checksum = sent[0]
        return [engine for engine, checksum in zip(engines, received, strict=True) if checksum != sent[0]]

    async def _on_engine(self, engine: Engine, method: str, seconds: float, *arguments: Any) -> Any:
        ref = getattr(engine.actor, method).remote(*arguments)
        return await settle(ref, f"engine {engine.name}, {method}", seconds, engine.log)

    def _require_engines(self) -> AllEngines:
        if self._engines is None:
            raise PoolError("publish before connect")
        return self._engines

    # -- durability

    async def save(self, folder: Path) -> None:
        await self._on_all("save", self._cluster.deadlines.checkpoint, folder)

    async def load(self, folder: Path) -> None:
        await self._on_all("load", self._cluster.deadlines.checkpoint, folder)

    async def export(self, folder: Path) -> None:
        """Write a Hugging Face folder and compare it, reloaded, with the trained policy.

        Raises:
            PoolError: the reloaded model differs.
        """
        await self._on_all("export", self._cluster.deadlines.checkpoint, folder)
        difference = max(await self._on_all("verify_export", self._cluster.deadlines.checkpoint, folder))
        if not difference <= EXPORT_TOLERANCE[self._settings.dtype]:
            raise PoolError(f"the exported model in {folder} differs from the trained one by {difference:.3g} nats")


def weight_transport(cluster: ClusterConfig) -> str:
    """`auto`: NCCL on GPU; shared memory on one CPU host, gloo across several."""
    if cluster.weight_transfer != "auto":
        return cluster.weight_transfer
    if cluster.device == "cuda":
        return "nccl"
    return "shm" if cluster.nodes == 1 else "gloo"
