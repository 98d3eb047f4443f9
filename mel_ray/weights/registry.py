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
    def colocated(self) -> bool: ...
    @property
    def weight_transfer(self) -> str: ...
    @property
    def weight_delta(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Transport:
    """`devices`: where it runs, and `device_why`: why nowhere else. `colocated_why`: why engines and policy cannot
    share a device; empty if they can. `has_rendezvous`: the policy and all engines wait for each other when they
    connect. `has_delta`: it can send changed elements alone. `reach_why`: why it does not leave the machine; empty if
    it does. `init_info`: what receivers are told in addition to the rendezvous."""

    devices: tuple[str, ...]
    device_why: str
    has_rendezvous: bool
    has_delta: bool
    reach_why: str = ""
    colocated_why: str = ""
    init_info: dict[str, Any] = field(default_factory=dict)

    @property
    def reaches_nodes(self) -> bool:
        return not self.reach_why

    def problems(self, cluster: ClusterOptions) -> Iterator[Problem]:
        """Why this transport cannot serve the cluster, with the remedy."""
        if cluster.colocated and self.colocated_why:
            fitting = [other for other, one in TRANSPORTS.items() if not one.colocated_why]
            yield Problem(
                "cluster.weight_transfer", cluster.weight_transfer, self.colocated_why,
                f"use {_either(['auto', *fitting])}, or cluster.colocated=false",
            )  # fmt: skip
        elif cluster.device not in self.devices:
            fitting = [other for other, one in TRANSPORTS.items() if cluster.device in one.devices]
            remedy = f"use {_either(['auto', *fitting])}"
            yield Problem("cluster.weight_transfer", cluster.weight_transfer, self.device_why, remedy)
        elif not self.reaches_nodes and cluster.nodes > 1:
            yield self.reach_problem(cluster.weight_transfer, f"{cluster.nodes} nodes")
        if cluster.weight_delta and not self.has_delta:
            why = f"{transport_of(cluster)} sends all weights each time"
            yield Problem("cluster.weight_delta", True, why, "use cluster.weight_delta=false")

    def reach_problem(self, name: str, what: str) -> Problem:
        fitting = [
            other for other, one in TRANSPORTS.items() if one.reaches_nodes and set(one.devices) >= set(self.devices)
        ]
        return Problem("cluster.weight_transfer", name, f"{self.reach_why} {what}", f"use {_either(fitting)}")


TRANSPORTS: dict[str, Transport] = {
    "shm": Transport(("cpu", "cuda"), "", False, True, "shared memory does not reach"),
    "gloo": Transport(("cpu", "cuda"), "", True, True),
    "nccl": Transport(
        ("cuda",),
        "NCCL needs GPUs",
        True,
        False,
        init_info={"packed": True},
        colocated_why="NCCL does not connect two processes on one GPU",
    ),
}


def transport_of(cluster: ClusterOptions) -> str:
    """The transport's name; `auto` is NCCL between GPUs; where they are shared, and on CPU, it is shared memory on one
    host and gloo across several."""
    if cluster.weight_transfer != "auto":
        return cluster.weight_transfer
    if cluster.device == "cuda" and not cluster.colocated:
        return "nccl"
    return "shm" if cluster.nodes == 1 else "gloo"


def _either(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
