"""python -m mel_ray.evaluate model=FOLDER benchmarks=[aime24,amc23]: Pass@1, Avg@8, Pass@8 of any checkpoint.

`model` is a folder, a hub id or one of conf/model/; several, as model=[A,B], stand side by side with paired
differences. The export of a run (runs/x/export) is evaluated with that run's configuration. `output=FOLDER` names where
everything goes; started again with the same folder, only what is missing is asked. Any other override works too.
"""

import asyncio
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import yaml

from mel_ray.config.load import compose_config
from mel_ray.config.problems import ConfigError, Problem
from mel_ray.config.schema import Config
from mel_ray.config.templates import CONF_DIR
from mel_ray.driver.evaluation import Evaluator
from mel_ray.eval_table import Evaluation, comparison_text, table_text
from mel_ray.observe.run_folder import fresh_name, write_json
from mel_ray.prepare import Prepared, checked_and_prepared


@dataclass(frozen=True, slots=True)
class Job:
    """One model with its configuration; `label` is unique."""

    label: str
    config: Config
    prepared: Prepared

    @property
    def file_stem(self) -> str:
        """Readable, and different where weights or settings differ, so that answers are never mixed up."""
        files = sorted(self.prepared.model_folder.glob("*.safetensors"))
        weights = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        asked = (
            weights,
            self.config.eval.model_dump(exclude={"benchmarks"}),
            self.config.data.prompt,
            self.config.run.seed,
        )
        digest = blake2b(repr(asked).encode(), digest_size=4).hexdigest()
        readable = "".join(c if c.isalnum() or c in "-_." else "_" for c in self.label).strip("_")
        return f"{readable}--{digest}"


def _split(value: str) -> list[str]:
    return [part.strip() for part in value.strip("[]").split(",") if part.strip()]


def _run_overrides(folder: Path) -> list[str]:
    """Overrides that repeat the configuration of the run a model was exported by; none for other folders."""
    file = folder.parent / "config.yaml"
    if folder.name != "export" or not file.exists():
        return ["model=local"]
    run = yaml.safe_load(file.read_text())
    model = run["model"]
    overrides = [
        "model=local",
        f"model.max_context={model['max_context']}",
        f"model.dtype={model['dtype']}",
        f"data.prompt={json.dumps(run['data']['prompt'])}",
        f"eval.max_tokens={run['eval']['max_tokens']}",
        f"rollout.max_tokens={run['rollout']['max_tokens']}",
    ]
    if model["stop_tokens"]:
        overrides.append(f"model.stop_tokens={json.dumps(model['stop_tokens'])}")
    return overrides


def compose_job(model: str, benchmarks: Sequence[str], overrides: Sequence[str], label: str) -> Job:
    """
    Raises:
        ConfigError: with every problem of this model's evaluation.
    """
    if (CONF_DIR / "model" / f"{model}.yaml").exists():
        chosen = [f"model={model}"]
    else:
        chosen = [*_run_overrides(Path(model)), f"model.path={model}"]
    fixed = [f"eval.benchmarks=[{','.join(benchmarks)}]", "mel.enabled=false", "data.max_prompt_tokens=null"]
    config = compose_config([*chosen, *fixed, *overrides])
    if not config.eval.benchmarks:
        raise ConfigError([Problem("benchmarks", None, "nothing to evaluate on", "e.g. benchmarks=[aime24,amc23]")])
    return Job(label, config, checked_and_prepared(config, with_training_data=False))


def parse(words: Sequence[str]) -> tuple[list[Job], Path]:
    """Jobs and output folder for the command line.

    Raises:
        ConfigError: something in it is wrong.
    """
    given = dict(word.split("=", 1) for word in words if "=" in word)
    models = _split(given.get("model", "tiny"))
    benchmarks = _split(given.get("benchmarks", "world_heldout" if models == ["tiny"] else ""))
    rest = [word for word in words if word.split("=", 1)[0] not in ("model", "benchmarks", "output")]
    labels = [model if models.count(model) == 1 else f"{model}-{i}" for i, model in enumerate(models)]
    runs = Path("runs")
    output = Path(given["output"]) if "output" in given else runs / fresh_name(runs, "eval")
    return [compose_job(m, benchmarks, rest, label) for m, label in zip(models, labels, strict=True)], output


async def evaluate(jobs: Sequence[Job], output: Path) -> list[Evaluation]:
    """All models one after the other on one Ray; every benchmark on the same rollout and verifier pools."""
    from mel_ray.pools.journal import FileJournal
    from mel_ray.wiring import SamplingPools, connected_to_ray

    task = asyncio.current_task()
    assert task is not None
    done = []
    with connected_to_ray(jobs[0].config):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        for number, job in enumerate(jobs):
            pools = SamplingPools(job.config, job.prepared.model_folder, output / "logs" / f"{number}")
            await pools.ready()
            evaluator = Evaluator(job.config, pools.rollout, pools.verifier)
            for benchmark in job.prepared.benchmarks:
                started = time.monotonic()
                journal = FileJournal(output / "responses" / f"{job.file_stem}--{benchmark.name}.jsonl")
                results = await evaluator.results(benchmark, journal)
                journal.write_parquet()
                seconds = time.monotonic() - started
                settings = job.config.eval
                done.append(
                    Evaluation(job.label, benchmark.name, tuple(results), settings.samples, settings.ks, seconds)
                )
                print(f"{job.label} on {benchmark.name}: {len(results)} questions in {seconds:.1f} s", flush=True)
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


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if any(word in ("-h", "--help") for word in words):
        print(__doc__)
        return 0
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        jobs, output = parse(words)
        output = output.absolute()
        output.mkdir(parents=True, exist_ok=True)
        done = asyncio.run(evaluate(jobs, output))
        write_results(output, done)
    except ConfigError as error:
        print("\n".join(map(str, error.problems)), file=sys.stderr)
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        print(f"mel_ray interrupted; start again with output={output} to ask only what is missing", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"output={output}: cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    except BaseException as error:
        cause: BaseException = error
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        print(f"mel_ray evaluation stopped: {cause or type(cause).__name__}", file=sys.stderr)
        return 1
    print()
    print(table_text(done))
    if len(jobs) > 1:
        print()
        print(comparison_text(done))
    print(f"\nresults  {output / 'results.json'}\nresponses  {output / 'responses'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
