"""The engine's end of every weight transport, behind vLLM's weight-transfer interface.

vLLM imports this module in the worker process because `worker_extension_cls` names it; importing it registers
the backends `mel_shm`, `mel_gloo` and `mel_nccl`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from mel_ray.policy.settings import ParameterMeta
from mel_ray.weights.weight_sender import (
    broadcast,
    buckets,
    combined_checksum,
    gloo_group,
    tensor_checksum,
)


def refresh_packed_heads(model: torch.nn.Module) -> None:
    """Repack every output head: on CPU a tied one otherwise keeps serving its old weights, silently."""
    for module in model.modules():
        if type(module).__name__ == "ParallelLMHead" and hasattr(module, "cpu_linear"):
            module.quant_method.process_weights_after_loading(module)


class _Tap:
    """Stands in for the model while weights arrive: takes their checksum, then loads them."""

    def __init__(self, model: torch.nn.Module, checksums: dict[str, int]) -> None:
        self._model, self._checksums = model, checksums

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> Any:
        return self._model.load_weights(self._tapped(weights))

    def _tapped(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in weights:
            self._checksums[name] = tensor_checksum(tensor)
            yield name, tensor


class _Checked(WeightTransferEngine):
    """Layerwise reload around an update, and the checksum of what was received."""

    checksums: dict[str, int]
    model: Any

    def start_weight_update(self) -> None:
        self.checksums = {}
        initialize_layerwise_reload(self.model)

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        refresh_packed_heads(self.model)

    def receive_weights(self, update_info: Any) -> None:
        model = self.model
        self.model = _Tap(model, self.checksums)
        try:
            self.receive(update_info)
        finally:
            self.model = model

    def receive(self, update_info: Any) -> None:
        """Load what `update_info` announces through `self.model.load_weights`."""
        super().receive_weights(update_info)  # type: ignore[safe-super]

    def shutdown(self) -> None:
        return None


@dataclass
class NoInfo(WeightTransferInitInfo):
    """Shared memory needs no rendezvous."""


@dataclass
class FileUpdate(WeightTransferUpdateInfo):
    path: str


class ShmReceiver(_Checked):
    init_info_cls, update_info_cls = NoInfo, FileUpdate

    def init_transfer_engine(self, init_info: NoInfo) -> None:
        return None

    def receive(self, update_info: FileUpdate) -> None:
        with safe_open(update_info.path, "pt") as file:
            self.model.load_weights((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118


@dataclass
class GlooInit(WeightTransferInitInfo):
    """`rank_offset` is the group rank of this engine's first worker; the trainer is rank 0."""

    master_address: str
    master_port: int
    rank_offset: int
    world_size: int


@dataclass
class DenseUpdate(WeightTransferUpdateInfo):
    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]


class GlooReceiver(_Checked):
    init_info_cls, update_info_cls = GlooInit, DenseUpdate

    def init_transfer_engine(self, init_info: GlooInit) -> None:
        rank = init_info.rank_offset + self.parallel_config.rank
        self._group = gloo_group(init_info.master_address, init_info.master_port, rank, init_info.world_size)

    def receive(self, update_info: DenseUpdate) -> None:
        announced = zip(update_info.names, update_info.dtype_names, update_info.shapes, strict=True)
        metas = [ParameterMeta(name, dtype, tuple(shape)) for name, dtype, shape in announced]
        for bucket in buckets(metas):
            flat = torch.empty(sum(meta.numel for meta in bucket), dtype=getattr(torch, bucket[0].dtype))
            broadcast(self._group, flat)
            pieces = flat.split([meta.numel for meta in bucket])
            self.model.load_weights(
                (meta.name, piece.view(meta.shape)) for meta, piece in zip(bucket, pieces, strict=True)
            )


class NcclReceiver(_Checked, NCCLWeightTransferEngine):
    """vLLM's own dense NCCL backend with the checksum added."""

    def shutdown(self) -> None:
        NCCLWeightTransferEngine.shutdown(self)


for _name, _backend in (("mel_shm", ShmReceiver), ("mel_gloo", GlooReceiver), ("mel_nccl", NcclReceiver)):
    if _name not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(_name, _backend)


class WorkerExtension:
    """Methods vLLM adds to its worker, called by name through `collective_rpc`."""

    def received_checksum(self) -> str:
        """Digest over everything received in the last update."""
        return combined_checksum(self.weight_transfer_engine.checksums)  # type: ignore[attr-defined]
