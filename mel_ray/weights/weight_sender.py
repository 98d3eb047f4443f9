"""Weights on the wire: metadata, buckets, checksum, and the trainer's end of each transport.

The engine's end is `weight_receiver.py`, behind vLLM's weight-transfer interface. Only the NCCL sender
imports vLLM, so a CPU trainer never pays for that.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mel_ray.policy.settings import ParameterMeta, dense_update_info

BUCKET_BYTES = 256 << 20
TIMEOUT = timedelta(seconds=300)
_WORDS = 1 << 20  # 64-bit words weighted at a time


@lru_cache(maxsize=8)
def _position_weights(device: torch.device) -> Tensor:
    """Odd 64-bit weights, different for each position of a chunk."""
    return torch.arange(_WORDS, device=device, dtype=torch.int64) * 2_654_435_761 * 2 + 1


def tensor_checksum(tensor: Tensor) -> int:
    """A 64-bit sum over the tensor's bits, weighted by position, on whatever device it is."""
    raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    whole = len(raw) // 8 * 8
    body = raw[:whole] if raw.data_ptr() % 8 == 0 else raw[:whole].clone()
    words, weights = body.view(torch.int64), _position_weights(raw.device)
    total = int.from_bytes(bytes(raw[whole:].tolist()), "little")
    for number, chunk in enumerate(words.split(_WORDS)):
        total += (2 * number + 1) * int((chunk * weights[: len(chunk)]).sum())
    return total & 0xFFFF_FFFF_FFFF_FFFF


def combined_checksum(checksums: Mapping[str, int]) -> str:
    """One digest over all parameters, independent of their order."""
    digest = blake2b(digest_size=12)
    for name in sorted(checksums):
        digest.update(f"{name}={checksums[name]};".encode())
    return digest.hexdigest()


def buckets(metas: Iterable[ParameterMeta], limit: int = BUCKET_BYTES) -> Iterator[list[ParameterMeta]]:
    """Consecutive parameters of one dtype whose bytes stay within the limit (a larger one travels alone)."""
    bucket: list[ParameterMeta] = []
    size = 0
    for meta in metas:
        if bucket and (size + meta.nbytes > limit or meta.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(meta)
        size += meta.nbytes
    if bucket:
        yield bucket


def gloo_group(address: str, port: int, rank: int, world: int) -> Any:
    """A gloo process group of its own, which touches no global group."""
    store = torch.distributed.TCPStore(address, port, world, is_master=rank == 0, timeout=TIMEOUT)
    prefixed = torch.distributed.PrefixStore("mel_ray_weights", store)
    return torch.distributed.ProcessGroupGloo(prefixed, rank, world, TIMEOUT)


def broadcast(group: Any, tensor: Tensor) -> None:
    options = torch.distributed.BroadcastOptions()
    options.rootRank, options.rootTensor = 0, 0
    group.broadcast([tensor], options).wait()


class Sender(Protocol):
    """The trainer's end. `update_info` goes to every engine before (concurrent) or after (stored) `send`."""

    def send(self, weights: Iterable[tuple[str, Tensor]]) -> str: ...

    def update_info(self) -> dict[str, Any]: ...

    def clean_up(self) -> None: ...


class ShmSender:
    """One host: a safetensors file in shared memory, whose path every engine opens."""

    def __init__(self, folder: str = "/dev/shm") -> None:
        self._folder = Path(folder)
        self._path: Path | None = None

    def send(self, weights: Iterable[tuple[str, Tensor]]) -> str:
        from os import getpid

        from safetensors.torch import save_file

        tensors = {name: tensor.detach().contiguous() for name, tensor in weights}
        self._path = self._folder / f"mel_ray_{getpid()}.safetensors"
        save_file(tensors, str(self._path))
        return combined_checksum({name: tensor_checksum(tensor) for name, tensor in tensors.items()})

    def update_info(self) -> dict[str, Any]:
        return {"path": str(self._path)}

    def clean_up(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None


class GlooSender:
    """Across hosts on CPU: buckets broadcast over TCP to all engines at once."""

    def __init__(self, metas: list[ParameterMeta], address: str, port: int, world: int) -> None:
        self._metas = metas
        self._group = gloo_group(address, port, 0, world)

    def send(self, weights: Iterable[tuple[str, Tensor]]) -> str:
        stream, checksums = iter(weights), {}
        for bucket in buckets(self._metas):
            tensors = []
            for meta in bucket:
                name, tensor = next(stream)
                if name != meta.name:
                    raise RuntimeError(f"weights came as {name}, announced as {meta.name}")
                checksums[name] = tensor_checksum(tensor)
                tensors.append(tensor.detach().reshape(-1))
            broadcast(self._group, torch.cat(tensors))
        return combined_checksum(checksums)

    def update_info(self) -> dict[str, Any]:
        return dense_update_info(self._metas)

    def clean_up(self) -> None:
        return None


class NcclSender:
    """GPU: packed NCCL broadcasts, the wire format of vLLM's own dense NCCL backend."""

    def __init__(self, metas: list[ParameterMeta], address: str, port: int, world: int) -> None:
        from vllm.distributed.weight_transfer.nccl_common import trainer_init
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        self._metas = metas
        self._info = NCCLTrainerInitInfo(master_address=address, master_port=port, world_size=world, rank=0)
        self._group = trainer_init(self._info)

    def send(self, weights: Iterable[tuple[str, Tensor]]) -> str:
        from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

        checksums: dict[str, int] = {}

        def tapped() -> Iterator[tuple[str, Tensor]]:
            for name, tensor in weights:
                checksums[name] = tensor_checksum(tensor)
                yield name, tensor

        packed_nccl_broadcast_producer(
            iterator=tapped(),
            group=self._group,
            src=0,
            post_iter_func=lambda item: item[1],
            buffer_size_bytes=self._info.packed_buffer_size_bytes,
            num_buffers=self._info.packed_num_buffers,
        )
        torch.cuda.synchronize()
        return combined_checksum(checksums)

    def update_info(self) -> dict[str, Any]:
        return dense_update_info(self._metas)

    def clean_up(self) -> None:
        return None


def make_sender(transport: str, metas: list[ParameterMeta], address: str, port: int, world: int) -> Sender:
    """The trainer's end of `shm`, `gloo` or `nccl`; the last two wait for all engines to connect."""
    match transport:
        case "shm":
            return ShmSender()
        case "gloo":
            return GlooSender(metas, address, port, world)
        case "nccl":
            return NcclSender(metas, address, port, world)
    raise ValueError(f"unknown weight transport {transport!r}")
