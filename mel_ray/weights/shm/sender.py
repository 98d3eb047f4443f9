"""One host: a safetensors file in shared memory, whose path every engine opens."""

from collections.abc import Sequence
from os import getpid
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from mel_ray.weights.parameters import ParameterMeta, combined_checksum, tensor_checksum
from mel_ray.weights.sender import NamedTensors, WeightSender


class Sender(WeightSender):
    def __init__(self, metas: Sequence[ParameterMeta], address: str, port: int, world: int) -> None:
        super().__init__(metas, address, port, world)
        self._path = Path("/dev/shm") / f"mel_ray_{getpid()}.safetensors"

    def send(self, weights: NamedTensors) -> str:
        tensors = {name: tensor.detach().contiguous() for name, tensor in weights}
        save_file(tensors, str(self._path))
        return combined_checksum({name: tensor_checksum(tensor) for name, tensor in tensors.items()})

    def update_info(self) -> dict[str, Any]:
        return {"path": str(self._path)}

    def clean_up(self) -> None:
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        self.clean_up()
