"""The policy's end of a transport, on rank 0."""

import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from mel_ray.weights.changes import Changes
from mel_ray.weights.checksum import copied_checksum, tensor_checksum
from mel_ray.weights.parameters import ITEM_BYTES, ParameterMeta, Place, dense_update_info, places
from mel_ray.weights.phases import Phases

NamedTensors = Iterable[tuple[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where the sender, rank 0, and the `world` - 1 workers of the engines meet.

    `listener` is bound to the port and listens, so nobody else can have taken it in the meantime.
    """

    address: str
    port: int
    world: int
    listener: socket.socket | None = None

    def descriptor(self) -> int | None:
        """The listener, to be closed by whoever is given it."""
        return None if self.listener is None else self.listener.detach()

    def drop(self) -> None:
        """For those who meet nobody."""
        if self.listener is not None:
            self.listener.close()


class WeightSender(ABC):
    """One subclass per transport, named `Sender`, in `weights/<transport>/sender.py`."""

    def __init__(self, metas: Sequence[ParameterMeta], meeting: Meeting, delta: bool) -> None:
        """Connect.

        A transport with a rendezvous waits for all workers. With `delta`, only changed elements are sent from the
        second time on.
        """
        self.metas, self.delta, self.phases = list(metas), delta, Phases()
        self.sent_bytes = 0  # of parameters, by the last `send`

    @abstractmethod
    def send(self, weights: NamedTensors) -> str:
        """Send all parameters, which come in the order of `metas`; returns their checksum."""

    def update_info(self) -> dict[str, Any]:
        """What receivers are told before the parameters are sent."""
        return dense_update_info(self.metas)

    def close(self) -> None:
        """Give up groups, sockets and memory, so that a new sender can take their place."""
        return None


class FlatSender(WeightSender):
    """Keeps what was sent last in one buffer on CPU, and brings it up to date bucket by bucket."""

    def __init__(self, metas: Sequence[ParameterMeta], meeting: Meeting, delta: bool) -> None:
        super().__init__(metas, meeting, delta)
        self.places = places(metas)
        self.memory = self.allocate(self.places[-1].stop)
        self._is_known = False  # the receivers hold what the buffer holds

    def allocate(self, size: int) -> Tensor:
        """Memory for the buffer, uint8 [size]."""
        return torch.empty(size, dtype=torch.uint8)

    def updated(self, weights: NamedTensors, checksums: dict[str, int]) -> Iterator[tuple[Place, Changes | None]]:
        """Bring the buffer up to date; yields each bucket as soon as it is, with what changed in it.

        Changes are None where the receivers need all of the bucket.
        """
        self.phases.clear()
        is_known, self._is_known = self._is_known, False
        stream = self.phases.waiting("gather", weights)
        for place in self.places:
            item = ITEM_BYTES[place.metas[0].dtype]
            changes = Changes(item, place.stop - place.start) if self.delta and is_known else None
            for (expected, target), offset in zip(place.views_of(self.memory), place.offsets, strict=True):
                name, tensor = next(stream)
                if name != expected:
                    raise RuntimeError(f"weights came as {name}, announced as {expected}")
                tensor = tensor.cpu()
                with self.phases.measure("copy and checksum" if changes is None else "compare and checksum"):
                    if changes is None:
                        checksums[name] = copied_checksum(tensor, target)
                    else:
                        checksums[name] = changes.take(tensor, target, offset - place.start)
            yield place, changes if changes is not None and changes.is_worth_it else None
        self._is_known = True


def make_sender(transport: str, metas: Sequence[ParameterMeta], meeting: Meeting, delta: bool) -> WeightSender:
    """The sender of a transport, found by its name in the registry."""
    sender: type[WeightSender] = import_module(f"mel_ray.weights.{transport}.sender").Sender
    return sender(metas, meeting, delta)


def tapped(weights: NamedTensors, checksums: dict[str, int], phases: Phases) -> Iterator[tuple[str, Tensor]]:
    """The same weights; their checksums are taken on the way."""
    for name, tensor in weights:
        with phases.measure("checksum"):
            checksums[name] = tensor_checksum(tensor)
        yield name, tensor
