"""What a rank saves: copied to host memory at once, and put into files, or kept as their bytes, while it trains on."""

import copy
import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointCommitInfo, CheckpointEngine
from numpy.typing import NDArray
from torch import Tensor

Files = Mapping[str, NDArray[np.uint8]]  # by their names below the checkpoint's folder, their bytes [bytes]


class Snapshot:
    """Copies of what belongs into the files of one checkpoint. Each copy is freed as soon as it is elsewhere."""

    def __init__(self) -> None:
        self._copies: list[tuple[Any, Path]] = []

    def add(self, state: Any, path: Path) -> None:
        self._copies.append((_copied(state), path))

    def write(self) -> None:
        """
        Raises:
            OSError: the disk is full, or cannot be written.
        """
        while self._copies:
            state, path = self._copies.pop(0)
            try:
                torch.save(state, path)
            except RuntimeError as error:  # of torch's archive, whatever the disk said
                self._copies.clear()
                free = shutil.disk_usage(path.parent).free >> 20
                raise OSError(f"{path} could not be written; its disk has {free} MiB free ({error})") from error

    def packed(self, folder: Path) -> Files:
        """`folder`: that for which the copies were made."""
        files = {}
        while self._copies:
            state, path = self._copies.pop(0)
            buffer = io.BytesIO()
            torch.save(state, buffer)
            files[str(path.relative_to(folder))] = np.frombuffer(buffer.getbuffer(), dtype=np.uint8)
        return files


class Snapshots(CheckpointEngine):
    """DeepSpeed hands `save` what belongs to a file, and gets from `load` what one holds."""

    def __init__(self) -> None:
        super().__init__()
        self.latest = Snapshot()
        self._in_memory: dict[Path, NDArray[np.uint8]] = {}

    def create(self, info: CheckpointCommitInfo) -> None:
        self.latest = Snapshot()  # whatever becomes of the one before

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Whoever has the files written makes the folders: a rank that failed to would hang the others."""

    def save(self, state_dict: Any, path: str | Path) -> None:
        self.latest.add(state_dict, Path(path))

    def load(self, path: str | Path, map_location: Any = None, weights_only: bool = False) -> Any:
        content = self._in_memory.get(Path(path))
        source = path if content is None else io.BytesIO(content.data)
        return torch.load(source, map_location=map_location, weights_only=weights_only)

    def commit(self, info: CheckpointCommitInfo) -> bool:
        return True

    def hold(self, files: Files, folder: Path) -> None:
        """From now on `load` finds these in memory; in the folder are empty files of the same names, because some look
        whether a file is there."""
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            self._in_memory[path] = content

    def release(self) -> None:
        self._in_memory.clear()


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
