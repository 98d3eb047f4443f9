"""The policy's end of a transport, on rank 0."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any

from torch import Tensor

from mel_ray.weights.parameters import ParameterMeta, dense_update_info, tensor_checksum

NamedTensors = Iterable[tuple[str, Tensor]]


class WeightSender(ABC):
    """One subclass per transport, named `Sender`, in `weights/<transport>/sender.py`."""

    def __init__(self, metas: Sequence[ParameterMeta], address: str, port: int, world: int) -> None:
        """Connect.

        A transport with a rendezvous waits for all `world` - 1 workers of the engines. The sender is rank 0.
        """
        self.metas = list(metas)

    @abstractmethod
    def send(self, weights: NamedTensors) -> str:
        """Send all parameters, which come in the order of `metas`; returns their checksum."""

    def update_info(self) -> dict[str, Any]:
        """What receivers are told: of a broadcast before it begins, of stored weights after they were sent."""
        return dense_update_info(self.metas)

    def clean_up(self) -> None:
        """All receivers have what was sent."""
        return None

    def close(self) -> None:
        """Give up groups and sockets, so that a new sender can take their place."""
        return None


def make_sender(transport: str, metas: Sequence[ParameterMeta], address: str, port: int, world: int) -> WeightSender:
    """The sender of a transport, found by its name in the registry."""
    sender: type[WeightSender] = import_module(f"mel_ray.weights.{transport}.sender").Sender
    return sender(metas, address, port, world)


def tapped(weights: NamedTensors, checksums: dict[str, int]) -> Iterator[tuple[str, Tensor]]:
    """The same weights; their checksums are taken on the way."""
    for name, tensor in weights:
        checksums[name] = tensor_checksum(tensor)
        yield name, tensor
