"""`mel export`: write the policy of a checkpoint as a Hugging Face folder."""

import shutil
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path

from mel_ray.cli.app import BAD_REQUEST, Ended, Options
from mel_ray.config.load import continued_config
from mel_ray.data.model_folder import locate_model
from mel_ray.policy.policy_settings import PolicySettings
from mel_ray.run.checkpoints import best_checkpoint, complete_checkpoints
from mel_ray.run.folder import RunFolder

DESCRIPTION = (
    "Write the policy of a checkpoint as a Hugging Face folder: weights, configuration, tokenizer; adapters also on "
    "their own. It needs neither Ray nor a GPU, but memory for the whole model."
)
BEST_STEP = "best"


def chosen_checkpoint(run: RunFolder, step: int | str | None) -> Path:
    """The complete checkpoint after this step, or the `best` one; by default the newest.

    Raises:
        Ended: there is none.
    """
    complete = complete_checkpoints(run.checkpoints)
    if not complete:
        raise Ended(BAD_REQUEST, f"{run.path}: the run has no checkpoint yet")
    if step is None:
        return complete[-1]
    if step == BEST_STEP:
        best = best_checkpoint(run.checkpoints)
        if best is None:
            raise Ended(BAD_REQUEST, f"{run.path}: the run keeps no best checkpoint (checkpoint.keep_best)")
        return run.checkpoints / best.checkpoint
    by_step = {int(folder.name.removeprefix("step-")): folder for folder in complete}
    if step not in by_step:
        there = ", ".join(map(str, by_step))
        raise Ended(BAD_REQUEST, f"{run.path}: no checkpoint after step {step}; there are those after {there}")
    return by_step[step]


def step_of(word: str) -> int | str:
    """
    Raises:
        ArgumentTypeError: it is neither a number nor `best`.
    """
    if word == BEST_STEP:
        return word
    try:
        return int(word)
    except ValueError:
        raise ArgumentTypeError(f"{word!r} is neither a step nor `best`") from None


def free_target(folder: Path) -> Path:
    """The folder itself, if nothing lies there.

    Raises:
        Ended: something does.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise Ended(BAD_REQUEST, f"{folder} exists; choose another folder with --to, or remove it")
    return folder.absolute()


def export(arguments: Sequence[str]) -> None:
    parser = Options("export", DESCRIPTION)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    help_ = "the checkpoint after this step, or `best` (checkpoint.keep_best); by default the newest"
    parser.add_argument("--step", type=step_of, metavar="N", help=help_)
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="by default RUN/export-step-000020")
    asked = parser.parse_args(arguments)
    run = RunFolder(asked.run)
    if not run.config.is_file():
        raise Ended(BAD_REQUEST, f"{run.path}: not a run folder (no config.yaml)")
    checkpoint = chosen_checkpoint(run, asked.step)
    target = free_target(asked.to or run.path / f"export-{checkpoint.name}")
    config = continued_config(run.config, ())
    settings = PolicySettings.of(config, locate_model(config.model.path))

    from safetensors import SafetensorError

    from mel_ray.policy.consolidate import export_checkpoint  # torch and DeepSpeed: only now

    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        export_checkpoint(checkpoint, settings, partial)
        partial.rename(target)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise Ended(BAD_REQUEST, f"cannot write {target}: {why}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(target)
