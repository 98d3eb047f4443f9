"""The delta form: which elements of a bucket changed, and to what. It works on bits, so NaN and -0.0 are exact too."""

import numpy as np
import torch
import xxhash
from torch import Tensor

from mel_ray.weights.checksum import CHUNK, raw_bytes

WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
LARGEST_SHARE = 0.5  # of the bucket's bytes; beyond, the bucket is sent as it is
AS_IT_IS = -1  # in place of the number of changes


class Changes:
    """Changed elements of one bucket: their positions in the bucket, and their new bits.

    `item`: bytes of an element; all of a bucket are of one dtype. `size`: bytes of the bucket.
    """

    def __init__(self, item: int, size: int) -> None:
        self._item, self._limit = item, int(size * LARGEST_SHARE)
        self._positions: list[np.ndarray] = []
        self._bits: list[np.ndarray] = []
        self.count = 0

    @property
    def is_worth_it(self) -> bool:
        """Sending the changes is cheaper than sending the bucket."""
        return self.count * (4 + self._item) <= self._limit

    def take(self, source: Tensor, target: Tensor, start: int) -> int:
        """Bring `target`, which lies `start` bytes into the bucket, up to date with `source`.

        Returns the checksum of all of it. One pass over both.
        """
        words, digest = WORDS[self._item], xxhash.xxh3_64()
        old, new = raw_bytes(target).numpy().view(words), raw_bytes(source).numpy().view(words)
        step = CHUNK // self._item
        for begin in range(0, len(new), step):
            before, after = old[begin : begin + step], new[begin : begin + step]
            if self.is_worth_it:
                changed = np.flatnonzero(before != after)
                self._positions.append((changed + (start // self._item + begin)).astype(np.uint32))
                self._bits.append(after[changed])
                self.count += len(changed)
            np.copyto(before, after)
            digest.update(before)
        return digest.intdigest()

    def payload(self) -> Tensor:
        """Positions, then bits: uint8 [count * (4 + item)]."""
        parts = [np.concatenate(part).view(np.uint8) for part in (self._positions, self._bits) if part]
        return torch.from_numpy(np.concatenate(parts)) if parts else torch.empty(0, dtype=torch.uint8)


def payload_bytes(count: int, item: int) -> int:
    return count * (4 + item)


def apply_changes(payload: Tensor, count: int, item: int, bucket: Tensor) -> None:
    """Write `count` changes into the bytes of a bucket."""
    words, raw = WORDS[item], payload.numpy()
    positions, bits = raw[: 4 * count].view(np.uint32), raw[4 * count :].view(words)
    bucket.numpy().view(words)[positions] = bits
