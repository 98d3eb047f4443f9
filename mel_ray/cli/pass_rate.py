"""`mel pass-rate`: how often the model solves each training question before it is trained, into a file."""

import asyncio
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mel_ray.cli.app import INTERRUPTED, Ended, Options, failed, heed_signals, unless_lost
from mel_ray.cli.check import checked_and_prepared
from mel_ray.config.load import compose_config
from mel_ray.config.schema import Config
from mel_ray.data.pass_rate_file import Measured, PassRateFile
from mel_ray.data.prepare import Prepared
from mel_ray.evaluation.pass_rates import histogram_text, measure
from mel_ray.records.evaluation import PassRate
from mel_ray.records.problem import counted
from mel_ray.records.row import Row
from mel_ray.records.trajectory import Prompt

DESCRIPTION = (
    "Answer every question of data.train several times with the model as it is, sampled as in training, and write how "
    "often it is solved, one JSON object a line. Started again with the same file, it asks only what is missing. "
    "data.train.pass_rate=[0.1,0.9] with data.train.pass_rate_file=FILE then trains on the questions in between."
)


def pass_rate(arguments: Sequence[str]) -> None:
    """Measure as asked, and print a histogram.

    Raises:
        ConfigError: the request cannot be carried out.
        Ended: it was interrupted or failed; what was measured is kept.
    """
    parser = Options("pass-rate", DESCRIPTION)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for mel train, e.g. data=gsm8k")
    parser.add_argument("--samples", type=int, default=8, help="answers per question (default 8)")
    parser.add_argument("--output", type=Path, default=Path("pass_rates.jsonl"), help="(default pass_rates.jsonl)")
    parser.add_argument("--overwrite", action="store_true", help="measure all again, whatever the file holds")
    asked = parser.parse_intermixed_args(arguments)
    if asked.samples < 1:
        parser.error("argument --samples: at least 1 is needed")
    config = as_measured(compose_config(asked.overrides))
    prepared = checked_and_prepared(config)
    file = PassRateFile(asked.output, measured(config, prepared, asked.samples), asked.overwrite)
    prompts = list({prompt.question_id: prompt for prompt in prepared.prompts.prompts}.values())
    missing = [prompt for prompt in prompts if prompt.question_id not in file.known]
    for dropped in prepared.dropped:
        print(dropped, flush=True)
    if missing:
        _measure(config, prepared, missing, asked.samples, file, len(prompts))
    rates = [file.known[prompt.question_id] for prompt in prompts]
    print(histogram_text(rates))
    print(f"pass rates  {asked.output}")


def as_measured(config: Config) -> Config:
    """What measuring needs of a run's configuration: all of its questions, no benchmarks, no batch."""
    whole = {"pass_rate": None, "pass_rate_file": None}
    sources = tuple(source.model_copy(update=whole) for source in config.data.sources)
    train = sources if isinstance(config.data.train, tuple) else sources[0]
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"name": None}),
            "data": config.data.model_copy(update={"train": train}),
            "mel": config.mel.model_copy(update={"enabled": False}),
            "eval": config.eval.model_copy(update={"benchmarks": ()}),
            "rollout": config.rollout.model_copy(update={"prompts_per_step": 1}),
            "algorithm": config.algorithm.model_copy(update={"minibatches": 1}),
        }
    )


def measured(config: Config, prepared: Prepared, samples: int) -> Measured:
    weights = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in prepared.weight_files]
    prompts = sorted({source.prompt or config.data.prompt for source in config.data.sources})
    model, reward, rollout = config.model.model_dump(exclude={"path"}), config.reward.model_dump(), config.rollout
    everything = (weights, prompts, model, reward, rollout.top_p, config.run.seed)
    digest = blake2b(repr(everything).encode(), digest_size=8).hexdigest()
    return Measured(config.model.path, samples, rollout.temperature, rollout.max_tokens, digest)


def _measure(
    config: Config, prepared: Prepared, missing: Sequence[Prompt], samples: int, file: PassRateFile, of: int
) -> None:
    before = len(file.known)
    progress = _Progress(of - len(missing), of)
    log = Path(f"{file.path}.log").absolute()
    try:
        with progress:
            asyncio.run(_ask(config, prepared, missing, samples, file, progress))
    except (KeyboardInterrupt, asyncio.CancelledError):
        done = len(file.known) - before
        count = f"{done} of {counted(len(missing), 'question')}"
        sentence = f"mel_ray interrupted after {count}; the same command goes on from there"
        raise Ended(INTERRUPTED, sentence) from None
    except BaseException as error:
        raise failed(error, "measuring stopped", log) from error


async def _ask(
    config: Config, prepared: Prepared, missing: Sequence[Prompt], samples: int, file: PassRateFile,
    progress: "_Progress",
) -> None:  # fmt: skip
    from mel_ray.actors.home import watch_home
    from mel_ray.driver.guards import FailureGuard
    from mel_ray.driver.wiring import SamplingPools, connected_to_ray
    from mel_ray.run.console import incident_line

    guard = FailureGuard(config.reward.max_failure_rate)

    def report(rate: PassRate, judged: Sequence[Row]) -> None:
        guard.watch([tuple(judged)])
        file.add(rate)
        progress.advance()

    with connected_to_ray(config):
        heed_signals()
        pools = SamplingPools(config, prepared.model_folder, None)
        pools.incidents.listen(lambda incident: print(incident_line(incident), flush=True))

        async def work() -> None:
            await pools.ready()
            progress.begin()
            await measure(missing, samples, config, pools.rollout, pools.rewards, report)

        await unless_lost(work(), watch_home())
        pools.kill()


class _Progress:
    """A bar in a terminal, else a line after every tenth of the questions."""

    def __init__(self, done: int, of: int) -> None:
        self._done, self._of, self._told = done, of, 10 * done // of
        self._bar = Progress(TextColumn("questions"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
        self._task = self._bar.add_task("questions", total=of, completed=done)

    def __enter__(self) -> None:
        kept = f", {self._done} of them measured before" if self._done else ""
        print(f"{counted(self._of, 'question')}{kept}; starting the engines", flush=True)

    def __exit__(self, *_: object) -> None:
        if self._bar.console.is_terminal:
            self._bar.stop()

    def begin(self) -> None:
        if self._bar.console.is_terminal:
            self._bar.start()

    def advance(self) -> None:
        self._done += 1
        self._bar.advance(self._task)
        if not self._bar.console.is_terminal and 10 * self._done // self._of > self._told:
            self._told = 10 * self._done // self._of
            print(f"{self._done}/{counted(self._of, 'question')}", flush=True)
