"""Hooks around an optimizer step, for options beyond the paper: the step itself knows none of them.

Order of calls: for every optimizer step `before_microbatch` before each microbatch, `before_optimizer` when all
gradients are there, the optimizer step itself within `optimizer_state`; after all steps of an update `after_update`.
A hook that measures lives for one update; one that remembers lives as long as its rank and is saved with the
checkpoint.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mel_ray.policy.statistics import Measure
from mel_ray.records.step import OptimizerStep, TrainSettings


class Rank(Protocol):
    """What a hook may see and do of a ZeRO-3 rank."""

    @property
    def number(self) -> int: ...

    @property
    def zero(self) -> Any:
        """DeepSpeed's ZeRO-3 optimizer, whose `optimizer` is AdamW."""
        ...

    def gradients(self) -> list[Tensor]:
        """Copies of this rank's part of the gradients accumulated so far, one per parameter."""
        ...

    def set_gradients(self, gradients: Sequence[Tensor]) -> None: ...

    def keep(self, state: Any, file: Path) -> None:
        """Copy it now, for this file of the checkpoint that is being saved."""
        ...

    def kept(self, file: Path) -> Any:
        """What was kept for this file of the checkpoint that is being loaded."""
        ...

    def gradient_norm(self) -> float:
        """Of all ranks' gradients accumulated so far (collective)."""
        ...


class Hook:
    """Does nothing."""

    def before_microbatch(self, step: OptimizerStep, microbatch: int, rank: Rank) -> None:
        return None

    def before_optimizer(self, step: OptimizerStep, rank: Rank) -> Mapping[str, Measure]:
        """May change the gradients; returns what it measured."""
        return {}

    def optimizer_state(self, step: OptimizerStep) -> AbstractContextManager[None]:
        """Within, the optimizer steps with another state than its usual one."""
        return nullcontext()

    def after_update(self, settings: TrainSettings, rank: Rank) -> None:
        return None

    def save(self, folder: Path, rank: Rank) -> None:
        return None

    def load(self, folder: Path, rank: Rank) -> None:
        return None


def partitions(zero: Any) -> list[Tensor]:
    """This rank's fp32 parts of the parameters, flat."""
    return list(zero.fp32_partitioned_groups_flat)


def norms_and_cosine(first: Sequence[Tensor], second: Sequence[Tensor]) -> tuple[float, float, float]:
    """Global norms of two gradients of which every rank holds a part, and their cosine (0 where one is zero).

    Collective.
    """
    pairs = ((first, first), (second, second), (first, second))
    dots = torch.stack([sum((a.double() * b.double()).sum() for a, b in zip(x, y, strict=True)) for x, y in pairs])
    torch.distributed.all_reduce(dots)
    one, other = dots[0].sqrt().item(), dots[1].sqrt().item()
    return one, other, dots[2].item() / (one * other) if one * other else 0.0
