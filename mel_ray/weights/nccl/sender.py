"""GPU: packed NCCL broadcasts, in the wire format of vLLM's own dense NCCL backend.

vLLM is imported when the sender is made: its packing and its communicator are the format.
"""

from collections.abc import Sequence

import torch

from mel_ray.weights.checksum import combined_checksum
from mel_ray.weights.parameters import ParameterMeta
from mel_ray.weights.sender import NamedTensors, WeightSender, tapped


class Sender(WeightSender):
    def __init__(self, metas: Sequence[ParameterMeta], address: str, port: int, world: int, delta: bool) -> None:
        super().__init__(metas, address, port, world, delta)
        from vllm.distributed.weight_transfer.nccl_common import trainer_init
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        self._info = NCCLTrainerInitInfo(master_address=address, master_port=port, world_size=world, rank=0)
        self._group = trainer_init(self._info)

    def send(self, weights: NamedTensors) -> str:
        from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

        checksums: dict[str, int] = {}
        packed_nccl_broadcast_producer(
            iterator=tapped(weights, checksums, self.phases),
            group=self._group,
            src=0,
            post_iter_func=lambda item: item[1].clone(),  # packed after later ones were asked for
            buffer_size_bytes=self._info.packed_buffer_size_bytes,
            num_buffers=self._info.packed_num_buffers,
        )
        torch.cuda.synchronize()
        self.sent_bytes = sum(meta.nbytes for meta in self.metas)
        return combined_checksum(checksums)

    def close(self) -> None:
        if self._group is not None:
            self._group.destroy()
            self._group = None
