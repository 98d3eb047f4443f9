"""One host: a buffer in shared memory, which every engine maps and loads from while the rest is written."""

import mmap
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mel_ray.weights.checksum import combined_checksum
from mel_ray.weights.parameters import ALIGNMENT, ITEM_BYTES, ParameterMeta
from mel_ray.weights.sender import FlatSender, Meeting, NamedTensors


class SharedBuffer:
    """A mapped file: in its first bytes the number of buckets written since it was made, then the parameters."""

    def __init__(self, descriptor: int) -> None:
        mapped = mmap.mmap(descriptor, 0)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            mapped.madvise(mmap.MADV_HUGEPAGE)
        self._written = np.frombuffer(mapped, np.int64, 1)
        self.memory = torch.frombuffer(mapped, dtype=torch.uint8)[ALIGNMENT:]

    @property
    def written(self) -> int:
        return int(self._written[0])

    @written.setter
    def written(self, count: int) -> None:
        self._written[0] = count


class Sender(FlatSender):
    """The file has no name and is gone with the last process that has it open."""

    def __init__(self, metas: Sequence[ParameterMeta], meeting: Meeting, delta: bool) -> None:
        self._descriptor = os.memfd_create("mel_ray_weights")
        super().__init__(metas, meeting, delta)
        meeting.drop()

    def allocate(self, size: int) -> Tensor:
        os.ftruncate(self._descriptor, ALIGNMENT + size)
        self._buffer = SharedBuffer(self._descriptor)
        return self._buffer.memory

    def send(self, weights: NamedTensors) -> str:
        checksums: dict[str, int] = {}
        self.sent_bytes = 0
        for place, changes in self.updated(weights, checksums):
            # A reader that saw this number before the bytes would find another checksum.
            self._buffer.written += 1
            whole = place.stop - place.start
            item = ITEM_BYTES[place.metas[0].dtype]
            self.sent_bytes += whole if changes is None else changes.count * item
        return combined_checksum(checksums)

    def update_info(self) -> dict[str, Any]:
        path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        return super().update_info() | {"path": path, "written_before": self._buffer.written}

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
