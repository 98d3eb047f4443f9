"""`mel evaluate`: Pass@1, Avg@n and Pass@k of any checkpoint, or of several side by side."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import yaml

from mel_ray.cli.app import EXIT_CODES, INTERRUPTED, Ended, asks_for_help, failed, heed_signals, unless_lost
from mel_ray.cli.check import checked_and_prepared
from mel_ray.config.load import compose_config, validate
from mel_ray.config.schema import Config
from mel_ray.config.templates import CONF_DIR
from mel_ray.data.prepare import Prepared
from mel_ray.evaluation.table import Evaluation, comparison_text, table_text
from mel_ray.mel.test_time import lessons_of_run, with_lessons
from mel_ray.records.problem import ConfigError, Problem, counted
from mel_ray.run.atomic import write_json
from mel_ray.run.folder import fresh_name
from mel_ray.run.store import read_experiences

HELP = f"""\
usage: mel evaluate model=... benchmarks=[...] [output=FOLDER] [key=value ...]

Answers every question of the benchmarks, greedily and eval.samples times at eval.temperature, and prints
Pass@1, Avg@n and Pass@k with standard errors.

  model=       a folder, a hub id or one of conf/model/. Several, as model=[A,B], stand side by side with
               paired differences. The export of a run (runs/x/export) is evaluated as that run was trained.
  benchmarks=  names in conf/benchmark/
  memory=      a run whose kept meta-experiences are looked up: each question is asked with the most fitting
               one in the prompt, without training. none, or a list as long as that of model=.
  output=      where results and responses go. Started again with the same folder, mel asks only what is
               missing.

  mel evaluate model=runs/mine/export benchmarks=[world_heldout]
  mel evaluate model=[Qwen/Qwen3-8B-Base,runs/mine/export] benchmarks=[aime24,amc23] output=runs/table

Any other key works as in `mel train`; `mel keys [word]` explains them.

{EXIT_CODES}"""


@dataclass(frozen=True, slots=True)
class Job:
    """One model with its configuration; `label` is unique. `memory`: the run whose lessons are in the prompts."""

    label: str
    config: Config
    prepared: Prepared
    memory: str | None = None

    @property
    def file_stem(self) -> str:
        """Readable, and different where weights or settings differ, so that answers are never mixed up."""
        files = sorted(self.prepared.model_folder.glob("*.safetensors"))
        weights = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        config = self.config
        settings = [config.model.model_dump(exclude={"path"}), config.reward.model_dump(), config.eval.model_dump()]
        asked: tuple[Any, ...] = (weights, settings, config.data.prompt, config.run.seed)
        if self.memory:  # the very prompts
            prompts = (prompt.token_ids.tobytes() for one in self.prepared.benchmarks for prompt in one.prompts)
            asked = (*asked, blake2b(b"".join(prompts), digest_size=8).hexdigest())
        digest = blake2b(repr(asked).encode(), digest_size=4).hexdigest()
        readable = "".join(c if c.isalnum() or c in "-_." else "_" for c in self.label).strip("_")
        return f"{readable}--{digest}"


def _split(value: str) -> list[str]:
    return [part.strip() for part in value.strip("[]").split(",") if part.strip()]


def _run_config(folder: Path) -> Config | None:
    """The configuration of the run that exported a model; None for other folders."""
    stored = folder.parent / "config.yaml"
    return validate(yaml.safe_load(stored.read_text())) if folder.name == "export" and stored.exists() else None


def _preset_of(hub_id: str) -> str:
    """The option of conf/model/ with this path, else `local`."""
    for file in (CONF_DIR / "model").glob("*.yaml"):
        if yaml.safe_load(file.read_text()).get("path") == hub_id:
            return file.stem
    return "local"


def compose_job(model: str, benchmarks: Sequence[str], overrides: Sequence[str], label: str) -> Job:
    """
    Raises:
        ConfigError: with every problem of this model's evaluation.
    """
    is_preset = (CONF_DIR / "model" / f"{model}.yaml").exists()
    chosen = [f"model={model}"] if is_preset else [f"model={_preset_of(model)}", f"model.path={model}"]
    fixed = [f"eval.benchmarks=[{','.join(benchmarks)}]", "mel.enabled=false", "data.max_prompt_tokens=null"]
    config = compose_config([*chosen, *fixed, *overrides])
    if not config.eval.benchmarks:
        raise ConfigError([Problem("benchmarks", None, "nothing to evaluate on", "e.g. benchmarks=[aime24,amc23]")])
    if not is_preset and (run := _run_config(Path(model))):
        config = _as_trained(config, run, overrides)
    return Job(label, config, checked_and_prepared(config, with_training_data=False))


def _remembering(job: Job, memory: str) -> Job:
    """The same questions with lessons of a run in their prompts.

    Raises:
        ConfigError: there is no such run, or it has kept no experience.
    """
    run = Path(memory)
    if not (run / "config.yaml").exists():
        raise ConfigError([Problem("memory", memory, "there is no run in this folder", "name a run's folder, or none")])
    mel = validate(yaml.safe_load((run / "config.yaml").read_text())).mel
    if mel.lesson != "own":
        why = f"its replays were shown something else than its lessons (mel.lesson={mel.lesson}), so none is proven"
        raise ConfigError([Problem("memory", memory, why, "name another, or none")])
    lessons = lessons_of_run(read_experiences(run, kept_only=True))
    if not lessons:
        raise ConfigError([Problem("memory", memory, "the run has kept no meta-experience", "name another, or none")])
    options = job.config.mel.retrieval
    options = options.model_copy(update={"method": "bm25"}) if options.method == "none" else options
    longest = job.config.model.max_context - job.config.eval.max_tokens
    benchmarks, notes = [], []
    for benchmark in job.prepared.benchmarks:
        prompts, helped = with_lessons(
            benchmark.prompts, lessons, mel.template, job.prepared.tokenizer, options, longest
        )
        benchmarks.append(replace(benchmark, prompts=prompts))
        notes.append(
            f"{benchmark.name}: {helped} of {len(prompts)} questions get one of {len(lessons)} lessons of {run}"
        )
    prepared = replace(job.prepared, benchmarks=tuple(benchmarks), notes=(*job.prepared.notes, *notes))
    return replace(job, prepared=prepared, memory=memory)


def _memories(given: str, models: Sequence[str]) -> list[str | None]:
    """One for each model.

    Raises:
        ConfigError: it is a list of another length.
    """
    memories: list[str | None] = [None if one == "none" else one for one in _split(given)] or [None]
    if len(memories) == 1:
        memories *= len(models)
    if len(memories) != len(models):
        why = f"there are {counted(len(memories), 'memory', 'memories')} for {counted(len(models), 'model')}"
        raise ConfigError([Problem("memory", given, why, "give one for all, or one for each; none is one, too")])
    return memories


def _as_trained(config: Config, run: Config, overrides: Sequence[str]) -> Config:
    """Model, prompt, rewards and lengths of the run that exported the model, where no override speaks of them."""
    given = {word.lstrip("+").split("=", 1)[0] for word in overrides}
    groups = {key.split(".")[0] for key in given}
    update: dict[str, Any] = {}
    if "model" not in groups:
        update["model"] = run.model.model_copy(update={"path": config.model.path})
    if not given & {"data", "data.prompt"}:
        update["data"] = config.data.model_copy(update={"prompt": run.data.prompt})
    if "reward" not in groups:
        update["reward"] = run.reward
    if "eval.max_tokens" not in given:
        update["eval"] = config.eval.model_copy(update={"max_tokens": run.eval.max_tokens})
    if "rollout.max_tokens" not in given:
        update["rollout"] = config.rollout.model_copy(update={"max_tokens": run.rollout.max_tokens})
    return config.model_copy(update=update)


def parse(words: Sequence[str]) -> tuple[list[Job], Path]:
    """Jobs and output folder for the command line.

    Raises:
        ConfigError: something in it is wrong.
    """
    given = dict(word.split("=", 1) for word in words if "=" in word)
    models = _split(given.get("model", "tiny"))
    benchmarks = _split(given.get("benchmarks", "world_heldout" if models == ["tiny"] else ""))
    memories = _memories(given.get("memory", "none"), models)
    rest = [word for word in words if word.split("=", 1)[0] not in ("model", "benchmarks", "output", "memory")]
    named = [f"{model} with {memory}" if memory else model for model, memory in zip(models, memories, strict=True)]
    labels = [name if named.count(name) == 1 else f"{name}-{i}" for i, name in enumerate(named)]
    runs = Path("runs")
    output = Path(given["output"]) if "output" in given else runs / fresh_name(runs, "eval")
    jobs = [compose_job(model, benchmarks, rest, label) for model, label in zip(models, labels, strict=True)]
    return [_remembering(job, memory) if memory else job for job, memory in zip(jobs, memories, strict=True)], output


async def ask_all(jobs: Sequence[Job], output: Path) -> list[Evaluation]:
    """All models one after the other on one Ray; every benchmark on the same engines and verifiers."""
    from mel_ray.actors.home import watch_home
    from mel_ray.driver.wiring import connected_to_ray

    with connected_to_ray(jobs[0].config):
        heed_signals()
        return await unless_lost(_ask_each(jobs, output), watch_home())


async def _ask_each(jobs: Sequence[Job], output: Path) -> list[Evaluation]:
    from mel_ray.driver.wiring import SamplingPools
    from mel_ray.evaluation.journal import FileJournal
    from mel_ray.run.console import incident_line

    done = []
    for number, job in enumerate(jobs):
        for note in job.prepared.dropped:
            print(note, flush=True)
        pools = SamplingPools(job.config, job.prepared.model_folder, output / "logs" / f"{number}")
        pools.incidents.listen(lambda incident: print(incident_line(incident), flush=True))
        await pools.ready()
        for benchmark in job.prepared.benchmarks:
            started = time.monotonic()
            file = output / "responses" / f"{job.file_stem}--{benchmark.name}.jsonl"
            journal = FileJournal(file, pools.store)
            results = await pools.evaluator.results(benchmark, journal)
            journal.write_parquet()
            seconds = time.monotonic() - started
            settings = job.config.eval
            done.append(Evaluation(job.label, benchmark.name, tuple(results), settings.samples, settings.ks, seconds))
            print(
                f"{job.label} on {benchmark.name}: {counted(len(results), 'question')} in {seconds:.1f} s",
                flush=True,
            )
        pools.kill()
    return done


def write_results(output: Path, done: Sequence[Evaluation]) -> None:
    rows: list[dict[str, Any]] = [
        {
            "model": one.model,
            "benchmark": one.benchmark,
            "questions": len(one.results),
            "seconds": round(one.seconds, 2),
        }
        | {name: round(value, 6) for name, value in one.scores.items()}
        for one in done
    ]
    write_json(output / "results.json", rows)


def evaluate(arguments: Sequence[str]) -> None:
    """Evaluate as asked, and print the tables.

    Raises:
        ConfigError: the request cannot be carried out.
        Ended: it was interrupted or failed; what was answered is kept.
    """
    if asks_for_help(arguments):
        print(HELP)
        return
    jobs, output = parse(arguments)
    output = output.absolute()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f"it cannot be written: {error.strerror}"
        raise ConfigError([Problem("output", output, why, "choose another folder")]) from error
    try:
        done = asyncio.run(ask_all(jobs, output))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sentence = f"mel_ray interrupted; start again with output={output} to ask only what is missing"
        raise Ended(INTERRUPTED, sentence) from None
    except BaseException as error:
        raise failed(error, "evaluation stopped", output / "logs" / "driver.log") from error
    write_results(output, done)
    print(f"\n{table_text(done)}")
    if len(jobs) > 1:
        print(f"\n{comparison_text(done)}")
    print(f"\nresults  {output / 'results.json'}\nresponses  {output / 'responses'}")
