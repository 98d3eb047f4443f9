"""Opening a run's folder: a fresh one, or one to continue."""

from pathlib import Path

from mel_ray.config.plan import disk_bytes
from mel_ray.config.schema import Config
from mel_ray.records.problem import ConfigError, Problem
from mel_ray.run.checkpoints import latest_checkpoint
from mel_ray.run.folder import RunFolder, RunFolderError, fresh_name


def kind_of(config: Config) -> str:
    """`mel` for GRPO with meta-experience, as the paper calls it; else the algorithm's name, with `-mel` where it
    is on."""
    name = config.algorithm.name
    if not config.mel.enabled:
        return name
    return "mel" if name == "grpo" else f"{name}-mel"


def open_run(config: Config, weight_bytes: int) -> tuple[Config, RunFolder, Path | None]:
    """The run's folder, with the checkpoint to continue from if there is one; the configuration has its name.

    Raises:
        ConfigError: the name is taken, the folder is of another format, or it cannot be written.
    """
    directory = Path(config.run.dir)
    name = config.run.name or fresh_name(directory, f"{kind_of(config)}-seed{config.run.seed}")
    folder = RunFolder((directory / name).absolute())
    exists = folder.config.exists()
    if exists and config.run.resume == "never":
        raise ConfigError([Problem("run.name", name, f"a run of this name exists in {directory}",
                                   "choose another name, or continue it with run.resume=auto")])  # fmt: skip
    try:
        if exists:
            folder.require_format()
        folder.prepare(disk_bytes(config, weight_bytes))
    except RunFolderError as error:
        raise ConfigError([Problem("run.dir", config.run.dir, str(error), "choose another run.dir")]) from error
    config = config.model_copy(update={"run": config.run.model_copy(update={"name": name})})
    return config, folder, latest_checkpoint(folder.checkpoints) if exists else None
