"""Checkpoints: copied at once, written aside while training goes on, synced, renamed, and only then are old ones
pruned.

Waits for the ranks; one checkpoint is under way at a time.
"""

import asyncio
import copy
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mel_ray.config.schema import CheckpointConfig
from mel_ray.records.incident import LostActor, PoolError
from mel_ray.records.ports import Saver, Writer
from mel_ray.records.reports import STATE_FILE, EvalReport
from mel_ray.run.atomic import write_atomically, write_json

LATEST, BEST, REPLACED = "latest", "best.json", ".replaced"


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


def complete_checkpoints(folder: Path) -> list[Path]:
    """All below `folder`, the oldest first."""
    found = (path.parent for path in folder.glob(f"step-*/{STATE_FILE}"))
    return sorted(path for path in found if re.fullmatch(r"step-\d{6,}", path.name))


def finish_replacing(folder: Path) -> None:
    """A process was killed while it put a newer checkpoint of the same step in the place of an older one."""
    for old in folder.glob(f".step-*{REPLACED}"):
        name = old.name.removeprefix(".").removesuffix(REPLACED)
        if not (folder / name).exists():
            old.rename(folder / name)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint below `folder`, or None."""
    complete = complete_checkpoints(folder)
    return complete[-1] if complete else None


@dataclass(frozen=True, slots=True)
class Best:
    """The checkpoint with the highest score."""

    checkpoint: str
    metric: str
    score: float


def best_checkpoint(folder: Path) -> Best | None:
    """What best.json says, if that checkpoint is still there."""
    try:
        best = Best(**json.loads((folder / BEST).read_text()))
        return best if (folder / best.checkpoint / STATE_FILE).exists() else None
    except (OSError, ValueError, TypeError):
        return None


class NotSaved(RuntimeError):
    """A checkpoint could not be written; the message is a sentence."""


class Checkpoints:
    """`folder`/step-000020/ holds what the savers write and the driver's state. `latest` names the newest, best.json
    the best, which is kept too."""

    def __init__(
        self, folder: Path, options: CheckpointConfig, savers: Sequence[Saver], ranks: Writer,
        written: Callable[[int], None] = lambda step: None, not_saved: Callable[[str], None] = lambda sentence: None,
    ) -> None:  # fmt: skip
        """`written` hears of every step whose checkpoint is complete, `not_saved` why one is not."""
        self._folder, self._options, self._savers, self._ranks = folder, options, savers, ranks
        self._written, self._not_saved = written, not_saved
        self._writing: asyncio.Task[None] | None = None
        finish_replacing(folder)
        for unfinished in folder.glob(".step-*"):
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed meanwhile
        self._coming: Best | None = None  # the best one, once its checkpoint is complete
        self._best = best_checkpoint(folder)
        if self._best and self._best.metric != options.keep_best:
            self._best = None

    async def save(self, state: State, again: bool = False) -> None:
        """Copy everything; the files are written later. A checkpoint of this step that is there is written `again`
        only where that is asked for.

        Raises:
            NotSaved: it could not be done, and the run is to stop then.
            LostActor: a rank is gone.
        """
        await self.finish()
        final = self._folder / _name(state.step)
        partial = final.with_name(f".{final.name}.partial")
        try:
            if (final / STATE_FILE).exists() and not again:
                self._point(final)
                return
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            await self._ranks.snapshot(partial)
            for saver in self._savers:
                await saver.save(partial)
        except (OSError, PoolError) as error:
            self._give_up(partial, state.step, error)
            return
        self._writing = asyncio.create_task(self._write(copy.deepcopy(state), partial, final))

    async def finish(self) -> None:
        """Wait until what was copied last is on disk.

        Raises: as `save`.
        """
        if self._writing is not None:
            task, self._writing = self._writing, None
            await task

    async def abandon(self) -> None:
        """Wait until what was copied last is on disk, or cannot be any more."""
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
            self._writing = None

    def evaluated(self, report: EvalReport) -> bool:
        """Whether this is the best evaluation so far (`checkpoint.keep_best`), so that its checkpoint is to be kept."""
        benchmark, _, score = (self._options.keep_best or "").partition("/")
        if report.benchmark != benchmark or report.step == 0:
            return False
        value, best = report.scores[score], self._coming or self._best
        if best is not None and value <= best.score:
            return False
        self._coming = Best(_name(report.step), f"{benchmark}/{score}", value)
        try:
            self._note_best()
        except OSError as error:
            self._not_saved(f"the best checkpoint, of step {report.step}, was not noted: {error.strerror or error}")
        return True

    # -- writing

    async def _write(self, state: State, partial: Path, final: Path) -> None:
        try:
            await self._ranks.write()
            await asyncio.to_thread(self._complete, state, partial, final)
        except (OSError, PoolError) as error:
            self._give_up(partial, state.step, error)
            return
        self._written(state.step)

    def _complete(self, state: State, partial: Path, final: Path) -> None:
        state.write(partial)
        for file in partial.rglob("*"):
            _sync(file)
        replaced = final.with_name(f".{final.name}{REPLACED}")
        if final.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            final.rename(replaced)
        try:
            partial.rename(final)
        except OSError:
            finish_replacing(self._folder)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
        self._point(final)

    def _point(self, final: Path) -> None:
        write_atomically(self._folder / LATEST, final.name)
        self._note_best()
        _sync(self._folder)
        kept = self._best.checkpoint if self._best else None
        for old in complete_checkpoints(self._folder)[: -self._options.keep]:
            if old.name != kept:
                shutil.rmtree(old)

    def _note_best(self) -> None:
        best = self._coming
        if best and (self._folder / best.checkpoint / STATE_FILE).exists():
            write_json(self._folder / BEST, {name: getattr(best, name) for name in ("checkpoint", "metric", "score")})
            self._best, self._coming = best, None

    def _give_up(self, partial: Path, step: int, error: OSError | PoolError) -> None:
        """
        Raises:
            NotSaved: the run is to stop.
            LostActor: that is the reason.
        """
        if isinstance(error, LostActor):
            raise error
        shutil.rmtree(partial, ignore_errors=True)
        if self._coming and self._coming.checkpoint == _name(step):
            self._coming = None
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if (self._folder / _name(step) / STATE_FILE).exists():
            self._not_saved(f"what was explored since the checkpoint of step {step} was not saved: {why}")
            return
        latest = latest_checkpoint(self._folder)
        valid = f"the last one is {latest.name}" if latest else "there is none yet"
        sentence = f"the checkpoint of step {step} was not saved, and {valid}: {why}"
        if self._options.on_failure == "stop":
            raise NotSaved(f"{sentence} (checkpoint.on_failure=stop)") from error
        self._not_saved(sentence)


def _name(step: int) -> str:
    return f"step-{step:06d}"
