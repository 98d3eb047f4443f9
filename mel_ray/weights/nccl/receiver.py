"""vLLM's own dense NCCL backend with the checksum added."""

from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

from mel_ray.weights.receiver import CheckedReceiver


class Receiver(CheckedReceiver, NCCLWeightTransferEngine):
    def close(self) -> None:
        NCCLWeightTransferEngine.shutdown(self)
