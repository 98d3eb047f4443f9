"""What a rank saves: copied to host memory at once, and written from a thread while it trains on."""

from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointCommitInfo, CheckpointEngine
from torch import Tensor
from torch.utils._pytree import tree_map_only


class Snapshots(CheckpointEngine):
    """DeepSpeed hands `save` what belongs to a file; `write` makes the files. Needs host memory for one checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self._copies: list[tuple[Any, Path]] = []

    def create(self, info: CheckpointCommitInfo) -> None:
        self._copies.clear()  # of one that was not written to its end

    def save(self, state_dict: Any, path: str | Path) -> None:
        copied = tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), state_dict)
        self._copies.append((copied, Path(path)))

    def load(self, path: str, map_location: Any = None) -> Any:
        return torch.load(path, map_location=map_location, weights_only=False)

    def commit(self, info: CheckpointCommitInfo) -> bool:
        return True

    def write(self) -> None:
        """Each copy is freed as soon as it is on disk.

        Raises:
            OSError: the disk is full, or cannot be written.
        """
        while self._copies:
            state, path = self._copies.pop(0)
            torch.save(state, path, _use_new_zipfile_serialization=False)
