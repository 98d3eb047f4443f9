"""Checkpoints: written aside, synced, renamed, and only then are old ones pruned."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mel_ray.records.ports import Saver
from mel_ray.records.reports import STATE_FILE

LATEST = "latest"


class State(Protocol):
    """The driver's state, written last."""

    @property
    def step(self) -> int: ...

    def write(self, folder: Path) -> None: ...


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint below `folder`, or None."""
    complete = sorted(path.parent for path in folder.glob(f"step-*/{STATE_FILE}"))
    return complete[-1] if complete else None


class Checkpoints:
    """`folder`/step-000020/ holds what the savers write and the driver's state; `latest` names the newest."""

    def __init__(self, folder: Path, keep: int, savers: Sequence[Saver]) -> None:
        self._folder, self._keep, self._savers = folder, keep, savers

    async def save(self, state: State) -> None:
        name = f"step-{state.step:06d}"
        final, partial = self._folder / name, self._folder / f".{name}.partial"
        if not (final / STATE_FILE).exists():
            await self._write(state, partial)
            if final.exists():
                shutil.rmtree(final)
            partial.rename(final)
        pointer = self._folder / f".{LATEST}.partial"
        pointer.write_text(name)
        _sync(pointer)
        pointer.rename(self._folder / LATEST)
        _sync(self._folder)
        self._prune()

    async def _write(self, state: State, folder: Path) -> None:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        for saver in self._savers:
            await saver.save(folder)
        state.write(folder)
        for file in folder.rglob("*"):
            _sync(file)

    def _prune(self) -> None:
        complete = sorted(path.parent for path in self._folder.glob(f"step-*/{STATE_FILE}"))
        for old in complete[: -self._keep]:
            shutil.rmtree(old)
