"""Checksums of parameters: both ends compute the same one over the same bits."""

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import torch
import xxhash
from torch import Tensor

CHUNK = 1 << 19  # bytes copied or compared, then summed: small enough for a core's own cache
_WORDS = 1 << 20  # 64-bit words that an accelerator weights at a time


def raw_bytes(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, uint8 [bytes]; a view if it is contiguous."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def tensor_checksum(tensor: Tensor) -> int:
    """64 bits over a tensor's bytes in their order, computed where the tensor is.

    XXH3 on CPU, which costs half a copy; elsewhere a sum weighted by position. So both ends must be on the same kind of
    device, as those of every transport are.
    """
    raw = raw_bytes(tensor)
    return xxhash.xxh3_64_intdigest(raw.numpy()) if raw.device.type == "cpu" else weighted_sum(raw)


def copied_checksum(source: Tensor, target: Tensor) -> int:
    """Copy a CPU tensor into another of its type and size; returns its checksum. One pass over memory."""
    old, new, digest = raw_bytes(target).numpy(), raw_bytes(source).numpy(), xxhash.xxh3_64()
    for start in range(0, len(new), CHUNK):
        piece = old[start : start + CHUNK]
        np.copyto(piece, new[start : start + CHUNK])
        digest.update(piece)
    return digest.intdigest()


@lru_cache(maxsize=8)
def _position_weights(device: torch.device) -> Tensor:
    """Odd 64-bit weights, different for each position of a chunk."""
    return torch.arange(_WORDS, device=device, dtype=torch.int64) * 2_654_435_761 * 2 + 1


def weighted_sum(raw: Tensor) -> int:
    """A 64-bit sum over uint8 [bytes], weighted by position, that waits for the device once."""
    whole = len(raw) // 8 * 8
    body = raw[:whole] if raw.data_ptr() % 8 == 0 else raw[:whole].clone()
    weights, total = _position_weights(raw.device), torch.zeros((), dtype=torch.int64, device=raw.device)
    for number, chunk in enumerate(body.view(torch.int64).split(_WORDS)):
        total += (2 * number + 1) * (chunk * weights[: len(chunk)]).sum()
    rest = int.from_bytes(bytes(raw[whole:].tolist()), "little")
    return (int(total) + rest) & 0xFFFF_FFFF_FFFF_FFFF


def combined_checksum(checksums: Mapping[str, int]) -> str:
    """One digest over all parameters, independent of their order."""
    digest = blake2b(digest_size=12)
    for name in sorted(checksums):
        digest.update(f"{name}={checksums[name]};".encode())
    return digest.hexdigest()
