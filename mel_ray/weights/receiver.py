"""The engine's end of every weight transport: an implementation of vLLM's weight-transfer interface.

vLLM imports this module in its worker process, because `worker_extension_cls` names it. Importing it registers a
backend `mel_<transport>` for every transport of the registry.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from vllm.distributed.weight_transfer.base import WeightTransferEngine
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from mel_ray.weights.parameters import combined_checksum
from mel_ray.weights.registry import TRANSPORTS
from mel_ray.weights.sender import tapped


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
        return self._model.load_weights(tapped(weights, self._checksums))


class CheckedReceiver(WeightTransferEngine):
    """Layerwise reload around an update, and the checksum of what was received.

    One subclass per transport, named `Receiver`, in `weights/<transport>/receiver.py`.
    """

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

    def close(self) -> None:
        """Give up groups and sockets, so that this engine can connect again."""
        return None

    def shutdown(self) -> None:
        self.close()


class WorkerExtension:
    """Methods vLLM adds to its worker, called by name through `collective_rpc`."""

    weight_transfer_engine: CheckedReceiver

    def received_checksum(self) -> str:
        """Digest over everything received in the last update."""
        return combined_checksum(self.weight_transfer_engine.checksums)

    def close_weight_transfer(self) -> None:
        self.weight_transfer_engine.close()


for _name in TRANSPORTS:
    if f"mel_{_name}" not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(f"mel_{_name}", f"mel_ray.weights.{_name}.receiver", "Receiver")
