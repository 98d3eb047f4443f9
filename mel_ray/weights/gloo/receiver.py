"""Takes the buckets that the sender broadcasts, each while the last one is loaded."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo

from mel_ray.weights.changes import AS_IT_IS, apply_changes, payload_bytes
from mel_ray.weights.gloo.sender import GlooGroup
from mel_ray.weights.parameters import ITEM_BYTES, Place
from mel_ray.weights.receiver import DenseUpdate, FlatReceiver


@dataclass
class GlooInit(WeightTransferInitInfo):
    """`rank_offset` is the group rank of this engine's first worker; the sender is rank 0."""

    master_address: str
    master_port: int
    rank_offset: int
    world_size: int
    delta: bool


class Receiver(FlatReceiver):
    """Keeps a flat copy of all parameters: the target of changes, and memory that need not be asked for each time."""

    init_info_cls, update_info_cls = GlooInit, DenseUpdate
    _group: GlooGroup | None = None
    _memory: Tensor | None = None

    def init_transfer_engine(self, init_info: GlooInit) -> None:
        rank = init_info.rank_offset + self.parallel_config.rank
        self._group = GlooGroup(init_info.master_address, init_info.master_port, rank, init_info.world_size)
        self._delta = init_info.delta

    def arriving(self, update_info: DenseUpdate, places: Sequence[Place]) -> Iterator[tuple[Place, Tensor]]:
        if self._group is None:
            raise RuntimeError("weights were announced before this engine was connected")
        if self._memory is None:
            self._memory = torch.empty(places[-1].stop, dtype=torch.uint8)
        group, memory = self._group, self._memory
        with ThreadPoolExecutor(1, "weights") as wire:
            taking = [wire.submit(self._take, group, place, place.bytes_of(memory)) for place in places]
            for place, taken in zip(places, taking, strict=True):
                taken.result()
                yield place, memory

    def _take(self, group: GlooGroup, place: Place, bucket: Tensor) -> None:
        count, item = torch.tensor([AS_IT_IS]), ITEM_BYTES[place.metas[0].dtype]
        if self._delta:
            group.broadcast(count)
        if count.item() == AS_IT_IS:
            group.broadcast(bucket)
        elif count.item():
            payload = torch.empty(payload_bytes(int(count), item), dtype=torch.uint8)
            group.broadcast(payload)
            apply_changes(payload, int(count), item, bucket)

    def close(self) -> None:
        self._memory = None
        if self._group is not None:
            self._group.close()
            self._group = None
