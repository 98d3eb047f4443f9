"""What a rank saves: copied to host memory at once, and written from a thread while it trains on."""

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointCommitInfo, CheckpointEngine
from torch import Tensor


class Snapshots(CheckpointEngine):
    """DeepSpeed hands `save` what belongs to a file; `write` makes the files. Needs host memory for one checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self._copies: list[tuple[Any, Path]] = []

    def create(self, info: CheckpointCommitInfo) -> None:
        self._copies.clear()  # of one that was not written to its end

    def save(self, state_dict: Any, path: str | Path) -> None:
        self._copies.append((_copied(state_dict), Path(path)))

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
            try:
                torch.save(state, path)
            except RuntimeError as error:  # of torch's archive, whatever the disk said
                free = shutil.disk_usage(path.parent).free >> 20
                raise OSError(f"{path} could not be written; its disk has {free} MiB free ({error})") from error


def _copied(value: Any) -> Any:
    """Tensors on the host, in the same containers; a torch.Size, which is a tuple too, stays one."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        copies = copy.copy(value)
        copies.update({key: _copied(one) for key, one in value.items()})
        return copies
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    return value
