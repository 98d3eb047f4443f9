"""The transports that carry weights from the policy to the engines (`cluster.weight_transfer`).

To add one: a folder here with `sender.py` (a class `Sender`) and `receiver.py` (a class `Receiver`, the only part
that imports vLLM), and one line below.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from mel_ray.records.problem import Problem


class ClusterOptions(Protocol):
    """What a transport may read of `cluster.*`."""

    @property
    def device(self) -> str: ...
    @property
    def nodes(self) -> int: ...
    @property
    def weight_transfer(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Transport:
    """`device`: where it runs. `is_broadcast`: all engines receive while the policy sends; else it stores, then they
    read. `reaches_nodes`: whether it leaves the machine. `init_info`: what receivers are told besides the
    rendezvous."""

    device: str
    is_broadcast: bool
    reaches_nodes: bool
    init_info: dict[str, Any] = field(default_factory=dict)

    def problems(self, cluster: ClusterOptions) -> Iterator[Problem]:
        """Why this transport cannot serve the cluster, with the remedy."""
        name, key = cluster.weight_transfer, "cluster.weight_transfer"
        if self.device != cluster.device:
            why = "NCCL needs GPUs" if name == "nccl" else f"this transport is for {self.device.upper()}"
            fitting = [other for other, one in TRANSPORTS.items() if one.device == cluster.device]
            yield Problem(key, name, why, f"use {_either(['auto', *fitting])}")
        elif not self.reaches_nodes and cluster.nodes > 1:
            yield self.reach_problem(name, f"{cluster.nodes} nodes")

    def reach_problem(self, name: str, what: str) -> Problem:
        fitting = [other for other, one in TRANSPORTS.items() if one.device == self.device and one.reaches_nodes]
        return Problem(
            "cluster.weight_transfer", name, f"shared memory does not reach {what}", f"use {_either(fitting)}"
        )


TRANSPORTS: dict[str, Transport] = {
    "shm": Transport("cpu", is_broadcast=False, reaches_nodes=False),
    "gloo": Transport("cpu", is_broadcast=True, reaches_nodes=True),
    "nccl": Transport("cuda", is_broadcast=True, reaches_nodes=True, init_info={"packed": True}),
}


def transport_of(cluster: ClusterOptions) -> str:
    """The transport's name; `auto` is NCCL on GPU, shared memory on one CPU host, gloo across several."""
    if cluster.weight_transfer != "auto":
        return cluster.weight_transfer
    if cluster.device == "cuda":
        return "nccl"
    return "shm" if cluster.nodes == 1 else "gloo"


def _either(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
