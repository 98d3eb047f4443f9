"""The engine's end of every weight transport: an implementation of vLLM's weight-transfer interface.

vLLM imports this module in its worker process, because `worker_extension_cls` names it. Importing it registers a
backend `mel_<transport>` for every transport of the registry.
"""

import ctypes
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    ReplicatedLinear,
    RowParallelLinear,
    UnquantizedLinearMethod,
)
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
    layerwise,
)
from vllm.platforms import current_platform

from mel_ray.weights.checksum import combined_checksum
from mel_ray.weights.parameters import ParameterMeta, Place, places
from mel_ray.weights.phases import AT_THE_SAME_TIME, Phases
from mel_ray.weights.registry import TRANSPORTS
from mel_ray.weights.sender import tapped

TRIM_EVERY = 16  # updates
PLAIN_LINEARS = (
    ColumnParallelLinear,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    ReplicatedLinear,
    RowParallelLinear,
)


def give_back_memory() -> None:
    """Give the system what the heap does not use. An engine on CPU compiles kernels for ever new batch sizes, and those
    that come and go leave holes in it, which malloc would keep."""
    with suppress(OSError, AttributeError):  # another library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def refresh_packed_heads(model: torch.nn.Module) -> None:
    """Repack every tied output head: on CPU it otherwise keeps serving its old weights, silently."""
    modules = list(model.modules())
    embeddings = {id(module.weight) for module in modules if type(module).__name__ == "VocabParallelEmbedding"}
    for module in modules:
        is_head = type(module).__name__ == "ParallelLMHead" and hasattr(module, "cpu_linear")
        if is_head and id(module.weight) in embeddings:
            module.quant_method.process_weights_after_loading(module)


def weight_as_received(layer: torch.nn.Module, info: Any) -> Tensor | None:
    """The whole weight of a plain linear layer, where its parts lie one after another in received memory.

    None where vLLM must put it together: another kind of layer, a part of it for this worker, or parts with gaps.
    """
    if type(layer) not in PLAIN_LINEARS or type(layer.quant_method) is not UnquantizedLinearMethod:
        return None
    whole = layer.weight
    if getattr(layerwise._get_original_loader(whole), "__self__", None) is not layer:
        return None
    loaded = [arguments.arguments for name, arguments in info.loaded_weights if name == "weight"]
    parts, tensors = [one.get("loaded_shard_id") for one in loaded], [one["loaded_weight"] for one in loaded]
    if parts not in ([None], ["q", "k", "v"], list(range(len(parts)))):
        return None
    if not tensors or sum(len(tensor) for tensor in tensors) != len(whole):
        return None
    end = tensors[0].data_ptr()
    for tensor in tensors:
        is_alike = tensor.dtype == whole.dtype and tensor.shape[1:] == whole.shape[1:] and tensor.is_contiguous()
        if not is_alike or tensor.data_ptr() != end:
            return None
        end += tensor.nbytes
    return torch.as_strided(tensors[0], whole.shape, (whole.shape[1], 1))


@contextmanager
def packing_in_place(phases: Phases) -> Iterator[None]:
    """On CPU, linear weights are packed straight from where they were received, by an engine with several threads while
    it loads others.

    By itself vLLM first copies every weight into memory of its own, only to drop the copy once it is packed.
    """
    original, is_cpu = layerwise._layerwise_process, current_platform.is_cpu() and not current_platform.is_zen_cpu()
    packed: list[Future[float]] = []
    threads = torch.get_num_threads()

    def pack(layer: torch.nn.Module, info: Any) -> float:
        started = time.perf_counter()
        with torch.no_grad():
            original(layer, info)
        return time.perf_counter() - started

    def process(layer: torch.nn.Module, info: Any) -> None:
        weight = weight_as_received(layer, info) if is_cpu else None
        if weight is not None:
            layer.weight = torch.nn.Parameter(weight, requires_grad=False)
            info.loaded_weights = [entry for entry in info.loaded_weights if entry[0] != "weight"]
        if weight is not None and threads > 1:
            packed.append(packer.submit(pack, layer, info))
        else:
            with phases.measure("repack"):
                original(layer, info)

    layerwise._layerwise_process = process
    try:
        with ThreadPoolExecutor(threads, "pack", torch.set_num_threads, (1,)) as packer:
            yield
            with phases.measure("wait for repacking"):
                seconds = sum(one.result() for one in packed)
        phases.seconds[AT_THE_SAME_TIME] += seconds
    finally:
        layerwise._layerwise_process = original


class _Tap:
    """Stands in for the model while weights arrive: takes their checksum, then loads them."""

    def __init__(self, model: torch.nn.Module, checksums: dict[str, int], phases: Phases) -> None:
        self._model, self._checksums, self._phases = model, checksums, phases

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> Any:
        return self._model.load_weights(tapped(weights, self._checksums, self._phases))


class CheckedReceiver(WeightTransferEngine):
    """Layerwise reload around an update, and the checksum of what was received.

    One subclass per transport, named `Receiver`, in `weights/<transport>/receiver.py`.
    """

    checksums: dict[str, int]
    updates = 0
    model: Any
    phases: Phases

    def forget_update(self) -> None:
        """Drop what was received of an update that is given up. Layers that got all of it keep it; the next update
        loads all of them again."""
        for layer in self.model.modules():
            info = layerwise.get_layerwise_info(layer)
            info.load_numel = 0
            info.loaded_weights.clear()

    def start_weight_update(self) -> None:
        self.checksums, self.phases = {}, Phases()
        with self.phases.measure("prepare layers"):
            initialize_layerwise_reload(self.model)

    def finish_weight_update(self) -> None:
        with self.phases.measure("finish layers"):
            finalize_layerwise_reload(self.model, self.model_config)
        with self.phases.measure("repack heads"):
            refresh_packed_heads(self.model)
        self.updates += 1
        if current_platform.is_cpu() and self.updates % TRIM_EVERY == 0:
            with self.phases.measure("trim heap"):
                give_back_memory()

    def receive_weights(self, update_info: Any) -> None:
        model = self.model
        self.model = _Tap(model, self.checksums, self.phases)
        try:
            with packing_in_place(self.phases), self.phases.measure("load"):
                self.receive(update_info)
        finally:
            self.model = model

    def receive(self, update_info: Any) -> None:
        """Load what `update_info` announces through `self.model.load_weights`."""
        super().receive_weights(update_info)  # type: ignore[safe-super]

    def close(self) -> None:
        """Give up groups and sockets, so that this engine can connect again."""
        return None

    def shutdown(self) -> None:
        self.close()


@dataclass
class DenseUpdate(WeightTransferUpdateInfo):
    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]

    def metas(self) -> list[ParameterMeta]:
        announced = zip(self.names, self.dtype_names, self.shapes, strict=True)
        return [ParameterMeta(name, dtype, tuple(shape)) for name, dtype, shape in announced]


class FlatReceiver(CheckedReceiver):
    """Loads from one flat buffer on CPU, a bucket while later ones arrive."""

    @abstractmethod
    def arriving(self, update_info: Any, places: Sequence[Place]) -> Iterator[tuple[Place, Tensor]]:
        """Each bucket as soon as it is complete, with the buffer it lies in.

        The buffer keeps its content until the next update: vLLM reads a weight only when its layer is complete.
        """

    def receive(self, update_info: DenseUpdate) -> None:
        arriving = self.phases.waiting("wait for weights", self.arriving(update_info, places(update_info.metas())))
        self.model.load_weights(weight for place, memory in arriving for weight in place.views_of(memory))


class WorkerExtension:
    """Methods vLLM adds to its worker, called by name through `collective_rpc`."""

    weight_transfer_engine: CheckedReceiver
    _weight_update_active: bool  # vLLM's own

    def received_checksum(self) -> str:
        """Digest over everything received in the last update."""
        return combined_checksum(self.weight_transfer_engine.checksums)

    def weight_phases(self) -> dict[str, float]:
        """Seconds of the last update by phase."""
        return dict(self.weight_transfer_engine.phases.seconds)

    def abandon_weight_update(self) -> None:
        """Make ready for another update than the one that was begun."""
        if self._weight_update_active:
            self.weight_transfer_engine.forget_update()
            self._weight_update_active = False

    def ping(self) -> None:
        """Answered between two steps."""
        return None

    def close_weight_transfer(self) -> None:
        self.weight_transfer_engine.close()


for _name in TRANSPORTS:
    if f"mel_{_name}" not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(f"mel_{_name}", f"mel_ray.weights.{_name}.receiver", "Receiver")
