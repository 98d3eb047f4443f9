"""`mel.combination=separate`: steps on lessons have an optimizer state of their own."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from mel_ray.policy.hooks.hook import Hook, Rank, partitions
from mel_ray.records.step import OptimizerStep


class Separate(Hook):
    """A second Adam state, made when it is first needed. Works on this rank's partitions and needs no communication."""

    def __init__(self, rank: Rank) -> None:
        self._zero, self._inner = rank.zero, rank.zero.optimizer
        steps = [self._inner.state[p]["step"] for p in partitions(self._zero) if p in self._inner.state]
        self._first_step = steps[0].clone() if steps else torch.zeros(())
        self._state: list[dict[str, Tensor]] | None = None

    def optimizer_state(self, step: OptimizerStep) -> AbstractContextManager[None]:
        return self._own_state() if step.optimizer == "experience" else nullcontext()

    @contextmanager
    def _own_state(self) -> Iterator[None]:
        if self._state is None:
            self._state = [
                {"step": self._first_step.clone(), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                for p in partitions(self._zero)
            ]
        usual = [self._inner.state[p] for p in partitions(self._zero)]
        try:
            for partition, state in zip(partitions(self._zero), self._state, strict=True):
                self._inner.state[partition] = state
            yield
        finally:
            for partition, state in zip(partitions(self._zero), usual, strict=True):
                self._inner.state[partition] = state

    def save(self, folder: Path, rank: Rank) -> None:
        if self._state is not None:
            rank.keep(self._state, self._file(folder, rank))

    def load(self, folder: Path, rank: Rank) -> None:
        file = self._file(folder, rank)
        self._state = None
        if file.exists():
            usual = [self._inner.state[p] for p in partitions(self._zero)]
            self._state = [
                {name: value.to(like[name].device) if name in like else value for name, value in one.items()}
                for one, like in zip(rank.kept(file), usual, strict=True)
            ]

    @staticmethod
    def _file(folder: Path, rank: Rank) -> Path:
        return folder / f"experience_optimizer-{rank.number}.pt"
