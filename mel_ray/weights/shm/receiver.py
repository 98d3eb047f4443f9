"""Reads the file that the sender names."""

from dataclasses import dataclass

from safetensors import safe_open
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo, WeightTransferUpdateInfo

from mel_ray.weights.receiver import CheckedReceiver


@dataclass
class NoInfo(WeightTransferInitInfo):
    """Shared memory needs no rendezvous."""


@dataclass
class FileUpdate(WeightTransferUpdateInfo):
    path: str


class Receiver(CheckedReceiver):
    init_info_cls, update_info_cls = NoInfo, FileUpdate

    def init_transfer_engine(self, init_info: NoInfo) -> None:
        return None

    def receive(self, update_info: FileUpdate) -> None:
        with safe_open(update_info.path, "pt") as file:
            self.model.load_weights((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118
