"""`mel.reptile`: slow weights, towards which the fast ones are pulled back from time to time."""

from pathlib import Path

import torch

from mel_ray.policy.hooks.hook import Hook, Rank, partitions
from mel_ray.records.step import TrainSettings


class Reptile(Hook):
    """The weights of the last interpolation: theta <- slow + rate (theta - slow), then slow <- theta (Reptile,
    arXiv 1803.02999; for experience replay arXiv 2508.01908)."""

    def __init__(self, rank: Rank) -> None:
        self._zero = rank.zero
        self._reset()

    def _reset(self) -> None:
        """Start again from the current weights."""
        self._slow = [partition.detach().clone() for partition in partitions(self._zero)]

    def after_update(self, settings: TrainSettings, rank: Rank) -> None:
        if settings.slow_rate is not None:
            self._interpolate(settings.slow_rate)

    def _interpolate(self, rate: float) -> None:
        """Collective: ZeRO-3 keeps small parameters whole, so they are released first and gathered again
        afterwards, as in an optimizer step; otherwise ranks would compute with the old ones."""
        self._zero._partition_all_parameters()
        with torch.no_grad():
            for number, (slow, fast) in enumerate(zip(self._slow, partitions(self._zero), strict=True)):
                slow.lerp_(fast, rate)
                fast.copy_(slow)
                # The fp32 partition becomes the working one.
                self._zero._reassign_or_swap_out_partitioned_parameters(number)
        if self._zero.persistent_parameters:
            self._zero.persistent_parameters[0].all_gather(self._zero.persistent_parameters)

    def save(self, folder: Path, rank: Rank) -> None:
        rank.keep(self._slow, self._file(folder, rank))

    def load(self, folder: Path, rank: Rank) -> None:
        file = self._file(folder, rank)
        if not file.exists():
            self._reset()
            return
        for slow, stored in zip(self._slow, rank.kept(file), strict=True):
            slow.copy_(stored)

    @staticmethod
    def _file(folder: Path, rank: Rank) -> Path:
        return folder / f"slow_weights-{rank.number}.pt"
