"""One ZeRO-3 rank as a Ray actor: follows the rows' references, and hands tokens to the policy."""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from mel_ray.actors.process import redirect_output
from mel_ray.policy.policy_settings import PolicySettings, Rendezvous
from mel_ray.policy.sequences import train_sequence
from mel_ray.policy.statistics import StepMeasures
from mel_ray.records.arrays import Floats
from mel_ray.records.row import Row
from mel_ray.records.step import OptimizerStep, TrainSequence, TrainSettings

Shard = Sequence[Sequence[Row]]  # one rank's microbatches


class PolicyActor:
    def __init__(self, settings: PolicySettings, log: Path | None) -> None:
        redirect_output(log)
        self._settings = settings

    def address(self) -> tuple[str, int]:
        """This node's address and a free port on it."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def start(self, rendezvous: Rendezvous) -> None:
        from mel_ray.policy.zero3 import Zero3Policy  # torch and DeepSpeed: for the ranks, not for the driver

        self._policy = Zero3Policy(self._settings, rendezvous)
        self._rank = rendezvous.rank

    def train(self, steps: Sequence[OptimizerStep], settings: TrainSettings) -> list[StepMeasures]:
        """All optimizer steps of a batch; each holds this rank's shard alone."""
        return self._policy.update([(step, self._resolve(step.shards[0])) for step in steps], settings)

    def score(self, shard: Shard, of_reference: bool) -> list[list[Floats]]:
        return self._policy.score(self._resolve(shard), of_reference)

    def _resolve(self, shard: Shard) -> list[list[TrainSequence]]:
        rows = [row for microbatch in shard for row in microbatch]
        refs: list[Any] = list({ref for row in rows for ref in (row.ref, row.context) if ref is not None})
        records = dict(zip(refs, ray.get(refs), strict=True))
        return [[train_sequence(row, records) for row in microbatch] for microbatch in shard]

    def open_sender(self, transport: str, address: str, port: int, world: int) -> None:
        """Rank 0 only; waits for the engines to connect where the transport has a rendezvous."""
        from mel_ray.weights.sender import make_sender

        self._sender = make_sender(transport, self._policy.weight_metas(), address, port, world)

    def send(self) -> str:
        """Gather all weights (collective); rank 0 sends them and returns their checksum."""
        if self._rank == 0:
            return self._sender.send(self._policy.weights())
        for _ in self._policy.weights():
            pass
        return ""

    def update_info(self) -> dict[str, Any]:
        return self._sender.update_info()

    def clean_up_sender(self) -> None:
        self._sender.clean_up()

    def close_sender(self) -> None:
        self._sender.close()

    def save(self, folder: Path) -> None:
        self._policy.save(folder)

    def load(self, folder: Path) -> None:
        self._policy.load(folder)

    def export(self, folder: Path) -> None:
        self._policy.export(folder, Path(self._settings.model))

    def verify_export(self, folder: Path) -> float:
        return self._policy.verify_export(folder)
