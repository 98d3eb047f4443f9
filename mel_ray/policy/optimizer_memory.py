"""What an update remembers beside ZeRO-3's own optimizer state: a second Adam state, and slow weights for Reptile.

Both work on this rank's fp32 partitions alone and need no communication, but for the gathering of small parameters that
ZeRO-3 keeps whole.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def _partitions(zero: Any) -> list[Tensor]:
    return list(zero.fp32_partitioned_groups_flat)


class SecondState:
    """Optimizer state of its own for steps on meta-experiences, made when first asked for."""

    def __init__(self, zero: Any) -> None:
        self._zero, self._inner = zero, zero.optimizer
        steps = [self._inner.state[p]["step"] for p in _partitions(zero) if p in self._inner.state]
        self._first_step = steps[0].clone() if steps else torch.zeros(())
        self._state: list[dict[str, Tensor]] | None = None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within, the optimizer steps with this state instead of its usual one."""
        if self._state is None:
            self._state = [
                {"step": self._first_step.clone(), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                for p in _partitions(self._zero)
            ]
        usual = [self._inner.state[p] for p in _partitions(self._zero)]
        try:
            for partition, state in zip(_partitions(self._zero), self._state, strict=True):
                self._inner.state[partition] = state
            yield
        finally:
            for partition, state in zip(_partitions(self._zero), usual, strict=True):
                self._inner.state[partition] = state

    def save(self, file: Path) -> None:
        if self._state is not None:
            torch.save(self._state, file)

    def load(self, file: Path) -> None:
        self._state = torch.load(file, weights_only=True) if file.exists() else None


class SlowWeights:
    """The weights of the last interpolation: theta <- slow + rate (theta - slow), then slow <- theta (Reptile,
    arXiv 1803.02999; for experience replay arXiv 2508.01908)."""

    def __init__(self, zero: Any) -> None:
        self._zero = zero
        self.reset()

    def reset(self) -> None:
        """Start again from the current weights."""
        self._slow = [partition.detach().clone() for partition in _partitions(self._zero)]

    def interpolate(self, rate: float) -> None:
        """Collective: parameters that are held whole are let go first and gathered anew, as in an optimizer step."""
        self._zero._partition_all_parameters()
        with torch.no_grad():
            for number, (slow, fast) in enumerate(zip(self._slow, _partitions(self._zero), strict=True)):
                slow.lerp_(fast, rate)
                fast.copy_(slow)
                # The fp32 partition becomes the working one.
                self._zero._reassign_or_swap_out_partitioned_parameters(number)
        if self._zero.persistent_parameters:
            self._zero.persistent_parameters[0].all_gather(self._zero.persistent_parameters)

    def save(self, file: Path) -> None:
        torch.save(self._slow, file)

    def load(self, file: Path) -> None:
        if not file.exists():
            self.reset()
            return
        for slow, stored in zip(self._slow, torch.load(file, weights_only=True), strict=True):
            slow.copy_(stored)
