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
    @property
    def weight_delta(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Transport:
    """`device`: where it runs, and `device_why`: why nowhere else. `has_rendezvous`: the policy and all engines
    wait for each other when they connect. `has_delta`: it can send changed elements alone. `reach_why`: why it does not
    leave the machine; empty if it does. `init_info`: what receivers are told in addition to the rendezvous."""

    device: str
    device_why: str
    has_rendezvous: bool
    has_delta: bool
    reach_why: str = ""
    init_info: dict[str, Any] = field(default_factory=dict)

    @property
    def reaches_nodes(self) -> bool:
        return not self.reach_why

    def problems(self, cluster: ClusterOptions) -> Iterator[Problem]:
        """Why this transport cannot serve the cluster, with the remedy."""
        if self.device != cluster.device:
            fitting = [other for other, one in TRANSPORTS.items() if one.device == cluster.device]
            remedy = f"use {_either(['auto', *fitting])}"
            yield Problem("cluster.weight_transfer", cluster.weight_transfer, self.device_why, remedy)
        elif not self.reaches_nodes and cluster.nodes > 1:
            yield self.reach_problem(cluster.weight_transfer, f"{cluster.nodes} nodes")
        if cluster.weight_delta and not self.has_delta:
            why = f"{transport_of(cluster)} sends all weights each time"
            yield Problem("cluster.weight_delta", True, why, "use cluster.weight_delta=false")

    def reach_problem(self, name: str, what: str) -> Problem:
        fitting = [other for other, one in TRANSPORTS.items() if one.device == self.device and one.reaches_nodes]
        return Problem("cluster.weight_transfer", name, f"{self.reach_why} {what}", f"use {_either(fitting)}")


TRANSPORTS: dict[str, Transport] = {
    "shm": Transport("cpu", "this transport is for CPU", False, True, "shared memory does not reach"),
    "gloo": Transport("cpu", "this transport is for CPU", True, True),
    "nccl": Transport("cuda", "NCCL needs GPUs", True, False, init_info={"packed": True}),
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
