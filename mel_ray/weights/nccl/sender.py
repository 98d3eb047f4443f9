"""GPU: packed NCCL broadcasts, in the wire format of vLLM's own dense NCCL backend.

vLLM is imported when the sender is made: its packing and its communicator are the format.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from mel_ray.weights.checksum import combined_checksum
from mel_ray.weights.parameters import ParameterMeta
from mel_ray.weights.sender import Meeting, NamedTensors, WeightSender, tapped


class Sender(WeightSender):
    def __init__(self, metas: Sequence[ParameterMeta], meeting: Meeting, delta: bool) -> None:
        super().__init__(metas, meeting, delta)
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        self._info = NCCLTrainerInitInfo(
            master_address=meeting.address, master_port=meeting.port, world_size=meeting.world, rank=0
        )
        self._group = self._communicator(meeting)

    @staticmethod
    def _communicator(meeting: Meeting) -> Any:
        """What vLLM's `trainer_init` makes, on the port that is held."""
        from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
        from vllm.distributed.utils import StatelessProcessGroup
        from vllm.utils.nccl import unpinned_nccl_env

        group = StatelessProcessGroup.create(
            host=meeting.address, port=meeting.port, rank=0, world_size=meeting.world, listen_socket=meeting.listener
        )
        with unpinned_nccl_env():
            return PyNcclCommunicator(group, device=torch.accelerator.current_device_index())

    def send(self, weights: NamedTensors) -> str:
        from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

        checksums: dict[str, int] = {}
        packed_nccl_broadcast_producer(
            iterator=tapped(self._as_announced(weights), checksums, self.phases),
            group=self._group,
            src=0,
            post_iter_func=lambda item: item[1].clone(),  # packed after later ones were asked for
            buffer_size_bytes=self._info.packed_buffer_size_bytes,
            num_buffers=self._info.packed_num_buffers,
        )
        torch.cuda.synchronize()
        self.sent_bytes = sum(meta.nbytes for meta in self.metas)
        return combined_checksum(checksums)

    def _as_announced(self, weights: NamedTensors) -> Iterator[tuple[str, torch.Tensor]]:
        """The same weights. On the wire they have neither names nor shapes: receivers cut them as they were told.

        Raises:
            RuntimeError: they come in another order or shape.
        """
        for meta, (name, tensor) in zip(self.metas, weights, strict=True):
            if (name, tuple(tensor.shape)) != (meta.name, meta.shape):
                came, announced = f"{name} {tuple(tensor.shape)}", f"{meta.name} {meta.shape}"
                raise RuntimeError(f"weights came as {came}, announced as {announced}")
            yield name, tensor

    def close(self) -> None:
        if self._group is not None:
            self._group.destroy()
            self._group = None
