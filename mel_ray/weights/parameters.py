"""Parameters on the wire: what each is called and how large it is, in buckets."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

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
