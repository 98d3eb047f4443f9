"""Parameters on the wire: what each is called and how large it is, in buckets; and checksums, the same on both ends."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

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


BUCKET_BYTES = 256 << 20
ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "float8_e4m3fn": 1,
    "int64": 8,
    "int32": 4,
    "int8": 1,
}


@dataclass(frozen=True, slots=True)
class ParameterMeta:
    """Name, dtype name (`float32`) and full shape of one parameter."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * ITEM_BYTES[self.dtype]


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


def dense_update_info(metas: list[ParameterMeta]) -> dict[str, Any]:
    return {
        "names": [meta.name for meta in metas],
        "dtype_names": [meta.dtype for meta in metas],
        "shapes": [list(meta.shape) for meta in metas],
    }
