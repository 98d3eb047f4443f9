"""python -m mel_ray.cli.train [--check] [overrides]: train a policy; see README.md.

Exit codes: 0 done, 2 a problem in what was asked, 130 interrupted, 1 anything else.
"""

import asyncio
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from mel_ray.cli.check import plan_text, prompts_text
from mel_ray.config.load import compose_config, continued_config, to_yaml
from mel_ray.records.problems import ConfigError, Problem
from mel_ray.config.schema import Config
from mel_ray.data.prompts import PromptStream
from mel_ray.run.checkpoints import STATE_FILE, Checkpoints, latest_checkpoint
from mel_ray.evaluation.evaluator import Evaluator
from mel_ray.driver.loop import Loop, Progress
from mel_ray.records.ports import Sink
from mel_ray.driver.state import DriverState
from mel_ray.driver.step import Stepper
from mel_ray.run.folder import RunFolder, RunFolderError, fresh_name
from mel_ray.data.prepare import Prepared, checked_and_prepared

DONE, FAILED, BAD_REQUEST, INTERRUPTED = 0, 1, 2, 130


def requested_config(overrides: Sequence[str]) -> Config:
    """The configuration asked for; a run that continues starts from its stored one.

    Raises:
        ConfigError: an override, key or value is wrong.
    """
    config = compose_config(overrides)
    stored = RunFolder(Path(config.run.dir) / str(config.run.name)).config
    if config.run.name and config.run.resume == "auto" and stored.exists():
        return continued_config(stored, overrides)
    return config


def kind_of(config: Config) -> str:
    """`mel` for GRPO with meta-experience, as the paper calls it; else the algorithm's name, with `-mel` where it
    is on."""
    name = config.algorithm.name
    if not config.mel.enabled:
        return name
    return "mel" if name == "grpo" else f"{name}-mel"


def open_run(config: Config, prepared: Prepared) -> tuple[Config, RunFolder, Path | None]:
    """The run's folder, with the checkpoint to continue from if there is one.

    Raises:
        ConfigError: the name is taken, or the folder cannot be written.
    """
    directory = Path(config.run.dir)
    name = config.run.name or fresh_name(directory, f"{kind_of(config)}-seed{config.run.seed}")
    folder = RunFolder((directory / name).absolute())
    exists = folder.config.exists()
    if exists and config.run.resume == "never":
        raise ConfigError([Problem("run.name", name, f"a run of this name exists in {directory}",
                                   "choose another name, or continue it with run.resume=auto")])  # fmt: skip
    try:
        folder.prepare(prepared.needed_bytes(config))
    except RunFolderError as error:
        raise ConfigError([Problem("run.dir", config.run.dir, str(error), "choose another run.dir")]) from error
    config = config.model_copy(update={"run": config.run.model_copy(update={"name": name})})
    return config, folder, latest_checkpoint(folder.checkpoints) if exists else None


def read_state(checkpoint: Path | None, config: Config) -> DriverState:
    if checkpoint is None:
        return DriverState()
    try:
        state = DriverState.read(checkpoint / STATE_FILE)
    except (OSError, ValueError, KeyError) as error:
        why = f"the checkpoint {checkpoint} cannot be read ({error})"
        raise ConfigError(
            [Problem("run.resume", config.run.resume, why, "remove it to continue from an older one")]
        ) from error
    is_exported = (checkpoint.parents[1] / "export" / "config.json").exists()
    if state.step > config.run.steps or (state.step == config.run.steps and is_exported):
        why = f"run '{config.run.name}' already has {state.step} steps"
        raise ConfigError([Problem("run.steps", config.run.steps, why, "raise it to train further")])
    return state


def make_sinks(config: Config, folder: RunFolder, done: int) -> list[Sink]:
    from mel_ray.run.console import make_console
    from mel_ray.run.metrics_file import MetricsFile
    from mel_ray.run.ray_sink import RayMetricsSink

    sinks: list[Sink] = [MetricsFile(folder), RayMetricsSink(str(config.run.name))]
    if config.observe.wandb != "off":
        from mel_ray.run.wandb_sink import WandbSink

        settings = config.observe
        dump = config.model_dump(mode="json")
        sinks.append(WandbSink(folder.path, str(config.run.name), settings.wandb_project, settings.wandb, dump))
    sinks.append(make_console(config.observe.console, config.run.steps, done))
    return sinks


async def train(
    config: Config, prepared: Prepared, folder: RunFolder, checkpoint: Path | None, progress: Progress
) -> None:
    """Run until the steps are done; `progress` tells at any time what has been done."""
    from mel_ray.run.archive import RunArchive
    from mel_ray.evaluation.journal import RunJournals
    from mel_ray.mel.memory import LessonMemory
    from mel_ray.driver.wiring import Pools, connected_to_ray

    task = asyncio.current_task()
    assert task is not None
    with connected_to_ray(config):
        # After Ray has connected, for it sets a handler of its own.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        pools = Pools(config, prepared.model_folder, folder.logs)
        await pools.ready(checkpoint)
        sinks = make_sinks(config, folder, progress.state.step)
        status = "failed"
        try:
            data = PromptStream(prepared.prompts.prompts, config.run.seed, progress.state.position)
            archive = RunArchive(folder, config.observe.trajectories, config.run.seed)
            stepper = Stepper(config, data, pools.rollout, pools.verifier, pools.experience, pools.policy,
                              pools.engines, archive)  # fmt: skip
            evaluator = Evaluator(config, pools.rollout, pools.verifier)
            memory = LessonMemory(stepper.memory)
            if checkpoint is not None:
                await memory.load(checkpoint)
            checkpoints = Checkpoints(folder.checkpoints, config.checkpoint.keep, [pools.policy, memory])
            loop = Loop(config, stepper, pools.policy, evaluator, prepared.benchmarks,
                        RunJournals(folder), checkpoints, sinks, progress)  # fmt: skip
            await loop.run()
            await pools.policy.export(folder.export)
            status = "done"
        finally:
            for sink in sinks:
                sink.close(status)


def first_cause(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def run(overrides: Sequence[str]) -> int:
    started = time.monotonic()
    config = requested_config(overrides)
    prepared = checked_and_prepared(config)
    config, folder, checkpoint = open_run(config, prepared)
    progress = Progress(read_state(checkpoint, config))
    folder.config.write_text(to_yaml(config))
    folder.rewind(progress.state.step if checkpoint else -1)
    print(f"run folder: {folder.path}", flush=True)
    if prepared.prompts.too_long:
        print(
            f"{prepared.prompts.too_long} questions dropped: longer than {config.prompt_limit} prompt tokens",
            flush=True,
        )
    if config.run.resume == "auto" and not checkpoint:
        print("no checkpoint to continue from: starting at step 1", flush=True)
    if checkpoint:
        print(f"continuing after step {progress.state.step} from {checkpoint.name}", flush=True)
    status, code, message = "failed", FAILED, ""
    try:
        asyncio.run(train(config, prepared, folder, checkpoint, progress))
        status, code = "done", DONE
    except (KeyboardInterrupt, asyncio.CancelledError):
        status, code, message = "interrupted", INTERRUPTED, f"interrupted after step {progress.state.step}"
    except BaseException as error:
        cause = first_cause(error)
        if isinstance(cause, ConfigError):
            raise cause from None
        log = folder.logs / "driver.log"
        log.write_text("".join(traceback.format_exception(error)))
        message = f"stopped after step {progress.state.step}: {cause or type(cause).__name__}\n  details: {log}"
    from mel_ray.run.closing import write_closing  # draws figures: only now

    closing = write_closing(folder, status, time.monotonic() - started)
    print(closing, flush=True)
    if message:
        print(f"mel_ray {message}", file=sys.stderr, flush=True)
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if any(word in ("-h", "--help") for word in words):
        print(__doc__)
        return DONE
    # A shell that starts us in the background has SIGINT ignored; whoever sends it anyway means it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    is_check = "--check" in words
    overrides = [word for word in words if word != "--check"]
    try:
        if is_check:
            config = compose_config(overrides)
            print(plan_text(config))
            print(prompts_text(config, checked_and_prepared(config)))
            print("no problems found")
            return DONE
        return run(overrides)
    except ConfigError as error:
        print("\n".join(map(str, error.problems)), file=sys.stderr)
        return BAD_REQUEST
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
