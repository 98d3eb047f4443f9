"""The run folder: a public format (docs/run_folder.md), written as the run goes."""

import json
import os
import shutil
from datetime import datetime
from pathlib import Path

from mel_ray.config.plan import checkpoint_bytes, disk_bytes
from mel_ray.config.schema import Config
from mel_ray.records.problem import ConfigError, Problem
from mel_ray.run.aside import Moved, move_aside
from mel_ray.run.atomic import write_json
from mel_ray.run.checkpoints import finish_replacing, latest_checkpoint
from mel_ray.run.order_file import find_order_problems
from mel_ray.run.resume import find_change_problems

EXPORTED = "mel_ray.json"  # written last into an export: the run, and its step
FORMAT = 3  # raised when an older folder can no longer be continued; 1 had no format file, 2 had pickles


class RunFolderError(Exception):
    """The folder cannot be used; the message is a sentence."""


class RunFolder:
    """`path` and the names below it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def format_file(self) -> Path:
        return self.path / "format"

    @property
    def lock(self) -> Path:
        return self.path / ".driver.lock"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def partial_export(self) -> Path:
        return self.path / ".export.partial"

    @property
    def exported_step(self) -> int | None:
        """The step after which `export` was written; None where there is no complete one."""
        try:
            return int(json.loads((self.export / EXPORTED).read_text())["step"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def complete_export(self, step: int) -> None:
        """Put what was written into `partial_export` in the place of `export`."""
        write_json(self.partial_export / EXPORTED, {"run": self.path.name, "step": step})
        old = self.path / ".export.old"
        shutil.rmtree(old, ignore_errors=True)
        if self.export.exists():
            self.export.rename(old)
        self.partial_export.rename(self.export)
        shutil.rmtree(old, ignore_errors=True)

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def incidents(self) -> Path:
        return self.path / "incidents.jsonl"

    @property
    def order(self) -> Path:
        return self.path / "order.jsonl"

    @property
    def evaluations(self) -> Path:
        return self.path / "eval"

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def experiences(self, step: int) -> Path:
        return self.path / "experiences" / f"step-{step:06d}.parquet"

    def trajectories(self, step: int) -> Path:
        return self.path / "trajectories" / f"step-{step:06d}.parquet"

    @property
    def held_bytes(self) -> int:
        """What its checkpoints and its export take of the disk."""
        held = 0
        for top in (self.checkpoints, self.export, self.partial_export):
            for folder, _, names in os.walk(top):
                held += sum(os.path.getsize(os.path.join(folder, name)) for name in names)
        return held

    def prepare(self, needed_bytes: int) -> None:
        """Create the folder and make sure that it can be written and has room.

        Raises:
            RunFolderError: it cannot be written, or the disk has less than `needed_bytes` free.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.path).free
            if free < needed_bytes:
                if not any(path != self.lock for path in self.path.iterdir()):
                    shutil.rmtree(self.path)
                raise RunFolderError(
                    f"the run folder {self.path} needs about {needed_bytes >> 20} MiB more "
                    f"and its disk has {free >> 20} MiB free"
                )
            for name in ("logs", "experiences", "trajectories", "eval", "checkpoints"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            if not self.format_file.exists():
                self.format_file.write_text(f"{FORMAT}\n")
            probe = self.path / ".probe"
            probe.write_text("x")
            probe.unlink()
        except OSError as error:
            raise RunFolderError(f"the run folder {self.path} cannot be written: {error.strerror}") from error

    def require_format(self) -> None:
        """
        Raises:
            RunFolderError: another version of mel_ray wrote the folder, so its checkpoints cannot be continued.
        """
        found = self.format_file.read_text().strip() if self.format_file.exists() else "1"
        if found != str(FORMAT):
            raise RunFolderError(
                f"the run folder {self.path} has format {found[:20]}, and this version of mel_ray continues format "
                f"{FORMAT} alone; its metrics, experiences and export can still be read"
            )

    def rewind(self, step: int) -> Moved | None:
        """Move everything after `step` to aside/, so that a resumed run writes it once; -1 moves everything.

        Returns how much that was and where it is, or None if there was nothing.
        """
        return move_aside(self.path, step)


def fresh_name(directory: Path, stem: str) -> str:
    """A name that no run below `directory` has: stem, date and time, and a number if need be."""
    base = f"{stem}-{datetime.now():%Y%m%d-%H%M%S}"
    name, number = base, 2
    while (directory / name).exists():
        name, number = f"{base}-{number}", number + 1
    return name


def kind_of(config: Config) -> str:
    """`mel` for GRPO with meta-experience, as the paper calls it; else the algorithm's name, with `-mel` where it
    is on."""
    name = config.algorithm.name
    if not config.mel.enabled:
        return name
    return "mel" if name == "grpo" else f"{name}-mel"


def replayed_order(config: Config) -> Path:
    """The order of the run that `run.replay_order` names: below run.dir, or a folder anywhere."""
    name = str(config.run.replay_order)
    below = RunFolder(Path(config.run.dir) / name)
    return (below if below.path.exists() else RunFolder(Path(name))).order


def _replay_problems(config: Config) -> list[Problem]:
    file = replayed_order(config)
    if config.run.name and file.parent.resolve() == (Path(config.run.dir) / config.run.name).resolve():
        remedy = "give this run another name"
        return [Problem("run.replay_order", config.run.replay_order, "a run cannot repeat itself", remedy)]
    return list(find_order_problems(config, file))


def find_run_problems(config: Config) -> list[Problem]:
    """Why a run of this name cannot be begun or continued, or none be repeated; nothing is written."""
    if config.run.replay_order is not None and (found := _replay_problems(config)):
        return found
    name, folder = config.run.name, RunFolder(Path(config.run.dir) / str(config.run.name))
    if not name or not folder.config.exists():
        return []
    if config.run.resume == "never":
        why = f"a run of this name exists in {config.run.dir}"
        return [Problem("run.name", name, why, "choose another name, or continue it with run.resume=auto")]
    try:
        folder.require_format()
    except RunFolderError as error:
        return [Problem("run.name", name, str(error), "choose another name")]
    if latest_checkpoint(folder.checkpoints) is None:
        return []  # the run starts at step 1, under any configuration
    return list(find_change_problems(folder.config, config))


def name_run(config: Config) -> tuple[Config, RunFolder]:
    """The run's folder, which is there, and nothing in it was touched; the configuration has its name.

    Raises:
        ConfigError: the name is taken, the folder is of another format, it cannot be made, or its run does not survive
            what was changed.
    """
    if problems := find_run_problems(config):
        raise ConfigError(problems)
    directory = Path(config.run.dir)
    name = config.run.name or fresh_name(directory, f"{kind_of(config)}-seed{config.run.seed}")
    folder = RunFolder((directory / name).absolute())
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f"the run folder {folder.path} cannot be written: {error.strerror}"
        raise ConfigError([Problem("run.dir", config.run.dir, why, "choose another run.dir")]) from error
    return config.model_copy(update={"run": config.run.model_copy(update={"name": name})}), folder


def open_run(config: Config, weight_bytes: int) -> tuple[Config, RunFolder, Path | None]:
    """The run's folder, with the checkpoint to continue from if there is one; the configuration has its name.

    Raises:
        ConfigError: as `name_run`, or the folder cannot be written, or its disk has no room.
    """
    config, folder = name_run(config)
    exists = folder.config.exists()
    needed = disk_bytes(config, weight_bytes)
    try:
        if held := folder.held_bytes:  # an old checkpoint goes only when a new one is complete
            needed = max(checkpoint_bytes(config, weight_bytes), needed - held)
        folder.prepare(needed)
        finish_replacing(folder.checkpoints)
    except RunFolderError as error:
        raise ConfigError([Problem("run.dir", config.run.dir, str(error), "choose another run.dir")]) from error
    except OSError as error:
        why = f"{folder.checkpoints} cannot be written: {error.strerror}"
        raise ConfigError([Problem("run.dir", config.run.dir, why, "choose another run.dir")]) from error
    return config, folder, latest_checkpoint(folder.checkpoints) if exists else None
