"""What engines and policy are told, light enough for the driver to import: no torch, no vLLM."""

import math
from dataclasses import dataclass
from typing import Any

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
class EngineSettings:
    model: str
    dtype: str
    max_context: int
    device: str
    tensor_parallel: int
    max_sequences: int
    memory_share: float
    kv_cache_mib: int
    in_process: bool
    transport: str
    seed: int


@dataclass(frozen=True, slots=True)
class PolicySettings:
    model: str
    dtype: str
    device: str
    temperature: float
    attention: str
    gradient_checkpointing: bool
    head_pieces: int  # calls of the output head per microbatch, the same on every rank
    threads: int
    weight_decay: float
    betas: tuple[float, float]
    max_grad_norm: float
    has_reference: bool = False  # keep the initial policy for KL terms
    has_slow_weights: bool = False  # keep a second copy of the weights for Reptile interpolation


@dataclass(frozen=True, slots=True)
class Rendezvous:
    rank: int
    local_rank: int
    world: int
    address: str
    port: int


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


def dense_update_info(metas: list[ParameterMeta]) -> dict[str, Any]:
    return {
        "names": [meta.name for meta in metas],
        "dtype_names": [meta.dtype for meta in metas],
        "shapes": [list(meta.shape) for meta in metas],
    }
