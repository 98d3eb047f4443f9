"""Runs of a study, each kept as one JSON line; what is there is not run again.

Concurrency: `parallel` workers (benchmarks/study_worker.py), each a process with a Ray of its own; every worker takes
the next missing run. A failure ends the study when the runs under way are done; nothing already made is lost.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, Queue
from statistics import fmean, stdev
from threading import Lock, Thread
from typing import Any

# One engine and one thread a pool, so that workers share a small machine; the numbers do not depend on engines.
ONE_CORE = ("cluster.rollout.engines=1", "cluster.policy.threads=1", "cluster.rollout.cpus=0.3",
            "cluster.policy.cpus=0.3", "eval.before=false", "checkpoint.every=0")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """`arm` names it in tables; the others decide what comes out. With `memory`, evaluations have a kept lesson of the
    run in the prompt."""

    arm: str
    overrides: tuple[str, ...]
    seed: int
    memory: bool = False

    @property
    def key(self) -> str:
        return json.dumps([sorted(self.overrides), self.seed, *(["memory"] if self.memory else [])])


@dataclass(frozen=True, slots=True)
class Result:
    """`scores`: evaluated step -> score name -> value; `rewards` per step; `kept` meta-experiences and sampled `tokens`
    of the whole run; `nll` of the meta-experiences in their first and last five steps. `series`: metrics by step, None
    where a step has none."""

    run: Run
    scores: dict[str, dict[str, float]]
    rewards: list[float]
    kept: float
    tokens: float
    nll: list[float]
    series: dict[str, list[float | None]] = field(default_factory=dict)

    def score(self, name: str, step: int | None = None) -> float:
        return self.scores[str(step) if step else max(self.scores, key=int)][name]


class StudyError(RuntimeError):
    """A run of the study failed; the message names it and its output."""


class Study:
    """All results of a study, in `folder`/results.jsonl."""

    def __init__(self, folder: Path, parallel: int, seldom: Mapping[str, int] | None = None) -> None:
        """`seldom`: benchmarks that are asked less often than `eval.every` says, with the steps between."""
        self._folder, self._parallel, self._lock, self._seldom = folder, parallel, Lock(), dict(seldom or {})
        self._file = folder / "results.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self._known = {result.run.key: result for result in map(_parsed, lines)}

    def results(self, runs: Sequence[Run]) -> list[Result]:
        """The result of each run, those that are missing made first.

        Raises:
            StudyError: a run ended without a result.
        """
        missing = {run.key: run for run in runs if run.key not in self._known}
        queue: Queue[Run] = Queue()
        for run in missing.values():
            queue.put(run)
        failures: list[str] = []
        workers = [Thread(target=self._work, args=(queue, number, failures)) for number in range(self._parallel)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if failures:
            raise StudyError("; ".join(failures))
        return [self._known[run.key] for run in runs]

    def _work(self, queue: "Queue[Run]", number: int, failures: list[str]) -> None:
        if queue.empty():
            return
        log = self._folder / f"worker-{number}.log"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        command = [sys.executable, "-m", "benchmarks.study_worker", json.dumps(ONE_CORE)]
        pipe = subprocess.PIPE
        with (
            log.open("w") as errors,
            subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, env=environment, text=True) as worker,
        ):
            assert worker.stdin is not None and worker.stdout is not None
            while not failures:
                try:
                    run = queue.get_nowait()
                except Empty:
                    break
                overrides = [*ONE_CORE, *run.overrides]
                asked = {"overrides": overrides, "seed": run.seed, "memory": run.memory, "seldom": self._seldom}
                worker.stdin.write(json.dumps(asked) + "\n")
                worker.stdin.flush()
                answer = worker.stdout.readline()
                if not answer:
                    failures.append(f"{run.arm} with seed {run.seed} ended without a result: see {log}")
                    break
                self._add(Result(run, **json.loads(answer)), queue.qsize())
            worker.stdin.close()

    def _add(self, result: Result, left: int) -> None:
        with self._lock:
            with self._file.open("a") as stream:
                stream.write(json.dumps(_plain(result)) + "\n")
            self._known[result.run.key] = result
            scores = " ".join(f"{name} {result.score(name):.3f}" for name in ("pass@1", "avg@8", "pass@8"))
            print(f"{result.run.arm}, seed {result.run.seed}: {scores} ({left} left)", flush=True)


def _plain(result: Result) -> dict[str, Any]:
    data = asdict(result)
    return data.pop("run") | data


def _parsed(line: str) -> Result:
    data = json.loads(line)
    run = Run(data.pop("arm"), tuple(data.pop("overrides")), data.pop("seed"), data.pop("memory", False))
    return Result(run, **data)


def mean_and_error(values: Sequence[float]) -> str:
    """`0.758 ± 0.004`: the mean over seeds and its standard error."""
    if len(values) < 2:
        return f"{values[0]:.3f}"
    return f"{fmean(values):.3f} ± {stdev(values) / len(values) ** 0.5:.3f}"
