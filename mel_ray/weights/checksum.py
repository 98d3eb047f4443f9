"""Checksums of weights, the same on both ends of a transport."""

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b

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
