"""Across hosts on CPU: buckets broadcast over TCP to all engines at once."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from mel_ray.weights.parameters import ParameterMeta, buckets, combined_checksum
from mel_ray.weights.sender import NamedTensors, WeightSender, tapped

TIMEOUT = timedelta(seconds=300)


class GlooGroup:
    """A gloo process group of its own, which touches no global group."""

    def __init__(self, address: str, port: int, rank: int, world: int) -> None:
        store = torch.distributed.TCPStore(address, port, world, is_master=rank == 0, timeout=TIMEOUT)
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


class Sender(WeightSender):
    def __init__(self, metas: Sequence[ParameterMeta], address: str, port: int, world: int) -> None:
        super().__init__(metas, address, port, world)
        self._group = GlooGroup(address, port, 0, world)

    def send(self, weights: NamedTensors) -> str:
        checksums: dict[str, int] = {}
        stream = tapped(weights, checksums)
        for bucket in buckets(self.metas):
            tensors = []
            for meta in bucket:
                name, tensor = next(stream)
                if name != meta.name:
                    raise RuntimeError(f"weights came as {name}, announced as {meta.name}")
                tensors.append(tensor.detach().reshape(-1))
            self._group.broadcast(torch.cat(tensors))
        return combined_checksum(checksums)

    def close(self) -> None:
        self._group.close()
