"""Takes the buckets that the sender broadcasts."""

from dataclasses import dataclass

import torch
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo, WeightTransferUpdateInfo

from mel_ray.weights.gloo.sender import GlooGroup
from mel_ray.weights.parameters import ParameterMeta, buckets
from mel_ray.weights.receiver import CheckedReceiver


@dataclass
class GlooInit(WeightTransferInitInfo):
    """`rank_offset` is the group rank of this engine's first worker; the sender is rank 0."""

    master_address: str
    master_port: int
    rank_offset: int
    world_size: int


@dataclass
class DenseUpdate(WeightTransferUpdateInfo):
    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]


class Receiver(CheckedReceiver):
    init_info_cls, update_info_cls = GlooInit, DenseUpdate
    _group: GlooGroup | None = None

    def init_transfer_engine(self, init_info: GlooInit) -> None:
        rank = init_info.rank_offset + self.parallel_config.rank
        self._group = GlooGroup(init_info.master_address, init_info.master_port, rank, init_info.world_size)

    def receive(self, update_info: DenseUpdate) -> None:
        if self._group is None:
            raise RuntimeError("weights were announced before this engine was connected")
        announced = zip(update_info.names, update_info.dtype_names, update_info.shapes, strict=True)
        metas = [ParameterMeta(name, dtype, tuple(shape)) for name, dtype, shape in announced]
        for bucket in buckets(metas):
            flat = torch.empty(sum(meta.numel for meta in bucket), dtype=getattr(torch, bucket[0].dtype))
            self._group.broadcast(flat)
            pieces = flat.split([meta.numel for meta in bucket])
            self.model.load_weights(
                (meta.name, piece.view(meta.shape)) for meta, piece in zip(bucket, pieces, strict=True)
            )

    def close(self) -> None:
        if self._group is not None:
            self._group.close()
            self._group = None
