"""Across hosts on CPU: buckets broadcast over TCP to all engines at once, each while the next is made ready."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from mel_ray.weights.changes import AS_IT_IS, Changes
from mel_ray.weights.checksum import combined_checksum
from mel_ray.weights.parameters import ParameterMeta, Place
from mel_ray.weights.sender import FlatSender, Meeting, NamedTensors

TIMEOUT = timedelta(seconds=300)


class GlooGroup:
    """A gloo process group of its own, which touches no global group."""

    def __init__(self, address: str, port: int, rank: int, world: int, descriptor: int | None = None) -> None:
        """Waits for the others. `descriptor`: of a socket of rank 0 that listens on the port."""
        store = torch.distributed.TCPStore(
            address, port, world, is_master=rank == 0, timeout=TIMEOUT, master_listen_fd=descriptor
        )
        self._group: Any = torch.distributed.ProcessGroupGloo(
            torch.distributed.PrefixStore("mel_ray_weights", store), rank, world, TIMEOUT
        )

    def broadcast(self, tensor: Tensor) -> None:
        """From rank 0."""
        options = torch.distributed.BroadcastOptions()
        options.rootRank, options.rootTensor = 0, 0
        self._group.broadcast([tensor], options).wait()

    def close(self) -> None:
        """Sockets and threads are given up with the last reference."""
        if self._group is not None:
            self._group.shutdown()
            self._group = None


class Sender(FlatSender):
    """On the wire a bucket is its bytes. With `delta` the number of changes comes first, then changes or bytes."""

    def __init__(self, metas: Sequence[ParameterMeta], meeting: Meeting, delta: bool) -> None:
        super().__init__(metas, meeting, delta)
        self._group = GlooGroup(meeting.address, meeting.port, 0, meeting.world, meeting.descriptor())

    def send(self, weights: NamedTensors) -> str:
        checksums: dict[str, int] = {}
        self.sent_bytes = 0
        with ThreadPoolExecutor(1, "weights") as wire:
            sending = [wire.submit(self._transmit, *bucket) for bucket in self.updated(weights, checksums)]
            with self.phases.measure("wait for the wire"):
                for bucket in sending:
                    bucket.result()
        return combined_checksum(checksums)

    def _transmit(self, place: Place, changes: Changes | None) -> None:
        if self.delta:
            self._group.broadcast(torch.tensor([AS_IT_IS if changes is None else changes.count]))
        data = place.bytes_of(self.memory) if changes is None else changes.payload()
        if len(data):
            self._group.broadcast(data)
        self.sent_bytes += len(data)

    def close(self) -> None:
        self._group.close()
