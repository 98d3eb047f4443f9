"""Parameters on the wire: what each is called, how large it is, and where it lies in one flat buffer, in buckets."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BUCKET_BYTES = 32 << 20
ALIGNMENT = 64  # bytes
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


@dataclass(frozen=True, slots=True)
class Place:
    """Where a bucket lies in the flat buffer: bytes `start` to `stop`, its parameters from `offsets` on."""

    metas: list[ParameterMeta]
    offsets: list[int]
    start: int
    stop: int

    def bytes_of(self, memory: Tensor) -> Tensor:
        """The bucket in a buffer, uint8 [stop - start]."""
        return memory[self.start : self.stop]

    def views_of(self, memory: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The bucket's parameters in a buffer, without a copy."""
        for meta, offset in zip(self.metas, self.offsets, strict=True):
            raw = memory[offset : offset + meta.nbytes]
            yield meta.name, raw.view(getattr(torch, meta.dtype)).view(meta.shape)


def places(metas: Iterable[ParameterMeta], limit: int = BUCKET_BYTES) -> list[Place]:
    """The layout of the flat buffer, which both ends derive from the metas. It is as long as the last `stop`.

    Parameters follow each other without a gap wherever their sizes allow it.
    """
    found: list[Place] = []
    offset = 0
    for bucket in buckets(metas, limit):
        offsets = []
        for meta in bucket:
            offsets.append(offset)
            offset += -(-meta.nbytes // ALIGNMENT) * ALIGNMENT
        found.append(Place(bucket, offsets, offsets[0], offset))
    return found
