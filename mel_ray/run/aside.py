"""Rewinding a run folder: what came after a step moves to aside/, so that it is neither lost nor there twice.

It goes into `aside/.NAME.partial` first, and only then are metrics.jsonl and order.jsonl shortened and the folder given
its name. Each of these can be done again: after a crash at any point, the next rewind finishes the folder it finds.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mel_ray.records.problem import counted
from mel_ray.run.atomic import write_atomically
from mel_ray.run.checkpoints import LATEST, latest_checkpoint

ASIDE = "aside"
LINES = ("metrics.jsonl", "order.jsonl")
FILES = ("experiences", "trajectories", "eval", "checkpoints")


@dataclass(frozen=True, slots=True)
class Moved:
    """`steps`: how many training steps `folder` holds, counted from those after step `after`; -1 for all steps."""

    after: int
    steps: int
    folder: Path

    def __str__(self) -> str:
        what = f"{counted(self.steps, 'step')} " if self.steps else "what was written "
        of = f"after step {self.after} " if self.after >= 0 else "of an earlier start "
        verb = "was" if self.steps < 2 else "were"
        return f"{what}{of}{verb} moved to {self.folder.parent.name}/{self.folder.name}"


def move_aside(run: Path, step: int) -> Moved | None:
    """Move everything after `step` (-1: everything) to aside/; None if there is nothing."""
    aside = run / ASIDE
    wanted = aside / f".{_name(step)}.partial"
    for left in sorted(aside.glob(".*.partial")):  # a rewind to another step did not finish
        if left != wanted:
            _move(run, max(step, _step_of_name(left.name)), left)
    return _move(run, step, wanted)


def _move(run: Path, step: int, partial: Path) -> Moved | None:
    """Fill `partial`, shorten what it was filled from, and give it its name."""
    cut = {name: (kept, tail) for name in LINES for kept, tail in [_split(run / name, step)] if tail}
    files = list(_files_after(run, step))
    if cut or files:
        partial.mkdir(parents=True, exist_ok=True)
    for name, (_, tail) in cut.items():
        write_atomically(partial / name, tail)
    for file in files:
        target = partial / file.relative_to(run)
        target.parent.mkdir(exist_ok=True)
        os.replace(file, target)
    for name, (kept, _) in cut.items():
        write_atomically(run / name, kept)
    _point_to_latest(run / "checkpoints")
    if not partial.exists():
        return None
    if not any(partial.iterdir()):  # a crash before anything was moved
        partial.rmdir()
        return None
    folder = _free(partial.parent / partial.name.removeprefix(".").removesuffix(".partial"))
    partial.rename(folder)
    return Moved(step, len(_steps_in(folder)), folder)


def _split(file: Path, step: int) -> tuple[str, str]:
    """The lines up to `step`, and those after it; a line cut off by a crash is after every step."""
    parts: tuple[list[str], list[str]] = ([], [])
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        at = _step_of_line(line)
        parts[at is None or at > step].append(f"{line}\n")
    return "".join(parts[0]), "".join(parts[1])


def _files_after(run: Path, step: int) -> Iterator[Path]:
    for folder in FILES:
        yield from (file for file in sorted((run / folder).glob("step-*")) if _step_of_name(file.name) > step)


def _steps_in(folder: Path) -> set[int]:
    """The training steps of which there is anything; step 0 is an evaluation."""
    lines = [line for name in LINES if (folder / name).exists() for line in (folder / name).read_text().splitlines()]
    found = {at for line in lines if (at := _step_of_line(line)) is not None}
    for name in FILES[:2]:
        found |= {_step_of_name(file.name) for file in (folder / name).glob("step-*")}
    return {at for at in found if at > 0}


def _step_of_line(line: str) -> int | None:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None


def _step_of_name(name: str) -> int:
    """Of `step-000020.parquet`, `step-000020-aime24.json` or `after-step-000020`; -1 where it names none."""
    found = re.search(r"step-(\d+)", name)
    return int(found[1]) if found else -1


def _name(step: int) -> str:
    return f"after-step-{step:06d}" if step >= 0 else "earlier-start"


def _free(folder: Path) -> Path:
    number, found = 2, folder
    while found.exists():
        number, found = number + 1, folder.with_name(f"{folder.name}-{number}")
    return found


def _point_to_latest(checkpoints: Path) -> None:
    """`latest` names the newest complete checkpoint, also when the one it named has moved."""
    pointer, newest = checkpoints / LATEST, latest_checkpoint(checkpoints)
    if pointer.exists() and not (checkpoints / pointer.read_text().strip()).exists():
        if newest is None:
            pointer.unlink()
        else:
            write_atomically(pointer, newest.name)
