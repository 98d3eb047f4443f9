"""`mel train`: train a policy, or continue a run."""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mel_ray.cli.app import (
    EXIT_CODES,
    FAILED,
    INTERRUPTED,
    STOPPED,
    Ended,
    asks_for_help,
    failed,
    first_cause,
    ignore_stop_signals,
    was_asked_to_stop,
)
from mel_ray.cli.check import check, checked_and_prepared, requested_config
from mel_ray.config.driving_checks import find_correction_problems
from mel_ray.config.load import to_yaml
from mel_ray.config.schema import Config
from mel_ray.data.prepare import Prepared
from mel_ray.driver.batches import Waiting
from mel_ray.driver.loop import Stopped
from mel_ray.driver.state import RunState
from mel_ray.mel.book import read_book
from mel_ray.mel.memory import StoredLessons
from mel_ray.records.problem import ConfigError, Problem, counted
from mel_ray.records.trajectory import Prompt
from mel_ray.run.atomic import write_atomically
from mel_ray.run.checkpoints import latest_checkpoint
from mel_ray.run.folder import RunFolder, RunFolderError, name_run, open_run
from mel_ray.run.lease import only_driver
from mel_ray.run.resume import change_lines
from mel_ray.run.scrub import scrub

HELP = f"""\
usage: mel train [--check] [key=value ...]

Trains a policy and writes a run folder: metrics, meta-experiences, evaluations, checkpoints, a report, and
the trained model in export/. Without keys, the embedded model learns the embedded problems.

  mel train run.steps=100 algorithm.lr=2e-4
  mel train model=local model.path=/my/model data=table data.train.path=my.jsonl
  mel train run.name=mine checkpoint.every=10                   and, to continue it:
  mel train run.name=mine run.resume=auto run.steps=200

--check does what `mel check` does: it shows what would run, or every problem at once. `mel keys [word]`
explains the keys. Ctrl-C ends a run with a complete folder. SIGTERM and SIGUSR1 save first and end with
exit code 75: run it again to go on.

{EXIT_CODES}"""


def read_state(checkpoint: Path | None, config: Config) -> RunState:
    """
    Raises:
        ConfigError: the checkpoint is damaged, or there is nothing left to do.
    """
    if checkpoint is None:
        return RunState()
    try:
        state = RunState.read(checkpoint)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError([_damaged(checkpoint, config, error)]) from error
    is_exported = RunFolder(checkpoint.parents[1]).exported_step == state.step
    if state.step > config.run.steps or (state.step == config.run.steps and is_exported):
        why = f"run '{config.run.name}' already has {counted(state.step, 'step')}"
        raise ConfigError([Problem("run.steps", config.run.steps, why, "raise it to train further")])
    return state


def check_questions(state: RunState, prompts: Sequence[Prompt], config: Config) -> None:
    """Note which questions the state counts its place in.

    Raises:
        ConfigError: they are not those of before.
    """
    found = f"{counted(len(prompts), 'question')} ({digest_of(prompts)})"
    if state.questions not in ("", found) and config.run.resume != "force":
        why = f"the run counts its place in {state.questions}, and with these keys there are {found}"
        remedy = "give data, lengths and benchmarks the values they had, or set run.resume=force"
        raise ConfigError([Problem("run.name", config.run.name, why, remedy)])
    state.questions = found


def digest_of(prompts: Sequence[Prompt]) -> str:
    """Of which questions there are, in their order."""
    return hashlib.sha256("\n".join(prompt.question_id for prompt in prompts).encode()).hexdigest()[:12]


def read_waiting(checkpoint: Path | None, config: Config, state: RunState) -> Waiting:
    """
    Raises:
        ConfigError: what was explored ahead is damaged, or nothing would correct it.
    """
    if checkpoint is None:
        return Waiting()
    try:
        waiting = Waiting.read(checkpoint, state.waiting)
    except (ValueError, TypeError) as error:
        raise ConfigError([_damaged(checkpoint, config, error)]) from error
    if waiting.asked and not config.is_off_policy and any(find_correction_problems(config)):
        why = "the checkpoint holds questions that were explored ahead, and nothing would correct for their age"
        raise ConfigError([Problem("run.resume", config.run.resume, why, "set algorithm.importance_cap=2")])
    return waiting


def check_lessons(checkpoint: Path | None, config: Config) -> None:
    """
    Raises:
        ConfigError: the memory of past lessons, or the book of those that travel, is damaged.
    """
    if checkpoint is None:
        return
    try:
        StoredLessons.read(checkpoint)
        read_book(checkpoint)
    except (OSError, ValueError) as error:
        raise ConfigError([_damaged(checkpoint, config, error)]) from error


def _damaged(checkpoint: Path, config: Config, error: Exception) -> Problem:
    why = f"the checkpoint {checkpoint} cannot be read ({error})"
    return Problem("run.resume", config.run.resume, why, "remove it to continue from an older one")


def _stopped(folder: RunFolder, state: RunState) -> str:
    saved = latest_checkpoint(folder.checkpoints)
    if saved and RunState.read(saved).step == state.step:
        return f"saved and stopped after step {state.step}"
    if not state.step:
        return "stopped before its first step was done"
    where = f"the last checkpoint is {saved.name}" if saved else "there is no checkpoint"
    return f"stopped after step {state.step}, but could not save: {where}"


def train(arguments: Sequence[str]) -> None:
    """Train as asked; the folder is complete however it ends.

    Raises:
        ConfigError: the request cannot be carried out.
        Ended: the run was interrupted or failed; its folder has been closed.
    """
    try:
        _train(arguments)
    except (KeyboardInterrupt, asyncio.CancelledError):
        if not was_asked_to_stop():
            raise
        raise Ended(STOPPED, "mel_ray stopped before it began; the same command begins again") from None


def _train(arguments: Sequence[str]) -> None:
    if asks_for_help(arguments):
        print(HELP)
        return
    overrides = [word for word in arguments if word != "--check"]
    if overrides != list(arguments):
        check(overrides)
        return
    started = time.monotonic()
    config = requested_config(overrides)
    prepared = checked_and_prepared(config)
    config, folder = name_run(config)
    try:
        with only_driver(folder.lock, config.cluster.deadlines.start, partial(print, flush=True)) as has_waited:
            if has_waited:  # the run may have another configuration now
                config = requested_config(overrides)
                prepared = checked_and_prepared(config)
            _train_in_folder(config, prepared, started)
    except RunFolderError as error:
        raise ConfigError([Problem("run.name", config.run.name, str(error), "choose another name")]) from error


def _train_in_folder(config: Config, prepared: Prepared, started: float) -> None:
    config, folder, checkpoint = open_run(config, prepared.weight_bytes)
    state = read_state(checkpoint, config)
    check_questions(state, prepared.prompts.prompts, config)
    waiting = read_waiting(checkpoint, config, state)
    check_lessons(checkpoint, config)
    changes = change_lines(folder.config, config)
    write_atomically(folder.config, scrub(to_yaml(config)))
    moved = folder.rewind(state.step if checkpoint else -1)
    print(f"run folder: {folder.path}", flush=True)
    for dropped in prepared.dropped:
        print(dropped, flush=True)
    if config.run.resume != "never" and not checkpoint:
        print("no checkpoint to continue from: starting at step 1", flush=True)
    if checkpoint:
        print(f"continuing after step {state.step} from {checkpoint.name}", flush=True)
    for line in (*changes, *([moved] if moved else [])):
        print(line, flush=True)
    from mel_ray.cli.training_run import TrainingRun  # Ray: only now

    status, ended = "done", None
    try:
        try:
            asyncio.run(TrainingRun(config, prepared, folder, state).run(checkpoint, waiting))
        finally:
            ignore_stop_signals()
    except BaseException as error:
        cause = first_cause(error)
        is_interrupted = isinstance(cause, KeyboardInterrupt | asyncio.CancelledError)
        again = f"the same command with run.name={config.run.name} run.resume=auto goes on"
        if is_interrupted and not was_asked_to_stop():
            status, ended = "interrupted", Ended(INTERRUPTED, f"mel_ray interrupted after step {state.step}")
        elif is_interrupted or isinstance(cause, Stopped):
            status, ended = "stopped", Ended(STOPPED, f"mel_ray {_stopped(folder, state)}; {again}")
        else:
            status, ended = "failed", failed(error, f"stopped after step {state.step}", folder.logs / "driver.log")
            if latest_checkpoint(folder.checkpoints):
                ended = Ended(ended.code, f"{ended}\n  {again} from the last checkpoint")
    from mel_ray.run.closing import write_closing  # draws figures: only now

    try:
        print(write_closing(folder, status, time.monotonic() - started), flush=True)
    except OSError as error:
        ended = ended or Ended(FAILED, f"mel_ray has done its steps, but could not write summary and report: {error}")
    if ended:
        raise ended
