"""Loads from the buffer that the sender writes, bucket by bucket."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo

from mel_ray.weights.parameters import Place
from mel_ray.weights.receiver import DenseUpdate, FlatReceiver
from mel_ray.weights.shm.sender import SharedBuffer

TIMEOUT = 300.0  # seconds that a bucket may take
POLL = 0.0002  # seconds


@dataclass
class NoInfo(WeightTransferInitInfo):
    """Shared memory needs no rendezvous; what changed is written where it belongs."""

    delta: bool


@dataclass
class SharedUpdate(DenseUpdate):
    path: str
    written_before: int


class Receiver(FlatReceiver):
    init_info_cls, update_info_cls = NoInfo, SharedUpdate
    _buffer: SharedBuffer | None = None

    def init_transfer_engine(self, init_info: NoInfo) -> None:
        self._buffer = None

    def arriving(self, update_info: SharedUpdate, places: Sequence[Place]) -> Iterator[tuple[Place, Tensor]]:
        if self._buffer is None:
            descriptor = os.open(update_info.path, os.O_RDWR)
            try:
                self._buffer = SharedBuffer(descriptor)
            finally:
                os.close(descriptor)
        for number, place in enumerate(places, start=update_info.written_before + 1):
            deadline = time.monotonic() + TIMEOUT
            while self._buffer.written < number:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no weights were written for {TIMEOUT:g} s")
                time.sleep(POLL)
            yield place, self._buffer.memory

    def close(self) -> None:
        self._buffer = None
