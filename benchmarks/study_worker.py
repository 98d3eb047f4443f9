"""Runs of a study, one after the other, in one process: `python -m benchmarks.study_worker` reads one JSON object a
line (`overrides`, `seed`, `memory`, `seldom`) and answers with one.

The pools stay up between runs that fit the same engines and policy settings; the policy goes back to its initial
checkpoint, so that a run is what `python -m mel_ray.main` with these overrides makes of it.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.common import NoCheckpoints, NoJournals, loop_for, renew_experience
from mel_ray.config.load import compose_config
from mel_ray.config.schema import Config
from mel_ray.data.prepare import Prepared, prepare
from mel_ray.driver.loop import Watch
from mel_ray.driver.wiring import Pools, connected_to_ray
from mel_ray.evaluation.evaluator import Evaluator
from mel_ray.mel.test_time import lessons_of_run, with_lessons
from mel_ray.policy.policy_settings import PolicySettings
from mel_ray.records.evaluation import Benchmark
from mel_ray.records.incident import Incident
from mel_ray.records.ports import Journal, ObjectStore
from mel_ray.records.reports import EvalReport, StepReport
from mel_ray.records.row import Row, drafts
from mel_ray.rollout.vllm_engine import EngineSettings
from mel_ray.run.store import experience_row

SERIES = (
    "mel/kept", "mel/right_rule_share", "mel/drafts_right_rule_share", "mel/replay_pass/none", "mel/kept_gain",
    "guide/ratio_mean", "guide/effective_share", "travel/pass_share", "mismatch/max",
)  # fmt: skip


class Curves:
    """What a study keeps of a run."""

    def __init__(self) -> None:
        self.rewards: list[float] = []
        self.nll: list[float] = []
        self.series: dict[str, list[float | None]] = {name: [] for name in ("tokens", *SERIES)}
        self.kept = self.tokens = 0.0
        self.scores: dict[int, dict[str, float]] = {}

    def step(self, report: StepReport) -> None:
        metrics = report.metrics
        self.rewards.append(metrics["reward/mean"])
        self.kept += metrics["mel/kept"]
        tokens = metrics["tokens/rollout"] + metrics["tokens/experience"] + metrics["tokens/resampled"]
        self.tokens += tokens
        self.series["tokens"].append(tokens)
        for name in SERIES:
            self.series[name].append(round(metrics[name], 4) if name in metrics else None)
        self.nll += [metrics["mel/nll"]] if "mel/nll" in metrics else []

    def evaluation(self, report: EvalReport) -> None:
        """By name; where there are several benchmarks, the plain names are the first one's."""
        scores = {name: report.scores[name] for name in ("pass@1", "avg@8", "pass@8")}
        named = {f"{report.benchmark}/{name}": value for name, value in scores.items()}
        self.scores[report.step] = scores | self.scores.get(report.step, {}) | named

    def incident(self, incident: Incident) -> None:
        raise RuntimeError(f"{incident}: what follows is no fair measurement")

    def close(self, status: str) -> None:
        return None

    def result(self) -> dict[str, Any]:
        return {
            "scores": {str(step): scores for step, scores in self.scores.items()},
            "rewards": [round(reward, 4) for reward in self.rewards],
            "kept": self.kept,
            "tokens": self.tokens,
            "series": self.series,
            "nll": [round(fmean(part), 4) for part in (self.nll[:5], self.nll[-5:]) if part],
        }


class Written:
    """An archive that keeps what the run wrote, as the run folder would."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.experiences: list[dict[str, Any]] = []

    async def record(self, step: int, rows: Sequence[Row], version: int = 0) -> None:
        for row in drafts(rows):
            (records,) = await self._store.get([row.ref])
            self.experiences.append(experience_row(step, row, records[row.index], ()))


class Remembering(Evaluator):
    """Asks every question with the most fitting lesson that was kept so far in the prompt, as
    `mel evaluate memory=RUN` does."""

    def __init__(self, config: Config, prepared: Prepared, pools: Pools, written: Written) -> None:
        super().__init__(config, pools.rollout, pools.rewards)
        self._config, self._tokenizer, self._written = config, prepared.tokenizer, written

    async def evaluate(self, benchmark: Benchmark, step: int, journal: Journal) -> EvalReport:
        config, lessons = self._config, lessons_of_run(self._written.experiences)
        options = config.mel.retrieval.model_copy(update={"method": "bm25"})
        longest = config.model.max_context - config.eval.max_tokens
        template = config.mel.template
        prompts, _ = with_lessons(benchmark.prompts, lessons, template, self._tokenizer, options, longest)
        return await super().evaluate(replace(benchmark, prompts=prompts), step, journal)


class Worker:
    """Holds pools and the initial checkpoint of the policy."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pools: Pools | None = None
        self._key: object = None

    async def run(self, overrides: Sequence[str], seed: int, memory: bool, seldom: Mapping[str, int]) -> dict[str, Any]:
        config = compose_config([*overrides, f"run.seed={seed}"])
        prepared = prepare(config)
        pools = await self._pools_for(config, prepared)
        await pools.policy.load(self._folder / "initial")
        await renew_experience(pools, config)
        curves, written = Curves(), Written(pools.store)
        loop = loop_for(config, prepared, pools, archive=written if memory else None)
        evaluator = Evaluator(config, pools.rollout, pools.rewards)
        if memory:
            evaluator = Remembering(config, prepared, pools, written)
        left_out: dict[tuple[int, str], Mapping[str, float]] = {
            (step, name): {} for name, every in seldom.items() for step in range(config.run.steps + 1) if step % every
        }
        watch = Watch(
            loop.state, evaluator, prepared.benchmarks, NoJournals(), NoCheckpoints(), [curves], done=left_out
        )
        await loop.run(watch)
        return curves.result()

    async def _pools_for(self, config: Config, prepared: Prepared) -> Pools:
        engines = replace(EngineSettings.of(config, prepared.model_folder), seed=0)
        key = (engines, PolicySettings.of(config, prepared.model_folder), config.reward)
        if self._pools is None or key != self._key:
            if self._pools is not None:
                self._pools.kill()
            self._pools, self._key = Pools(config, prepared.model_folder, self._folder), key
            await self._pools.ready()
            await self._pools.policy.save(self._folder / "initial")
        return self._pools


async def serve(answers: Any) -> None:
    with tempfile.TemporaryDirectory(prefix="mel_ray_study_") as folder:
        worker = Worker(Path(folder))
        for line in iter(sys.stdin.readline, ""):
            asked = json.loads(line)
            result = await worker.run(asked["overrides"], asked["seed"], asked["memory"], asked["seldom"])
            print(json.dumps(result), file=answers, flush=True)


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print; the answers are alone on stdout
    with connected_to_ray(compose_config(json.loads(sys.argv[1]))):
        asyncio.run(serve(answers))


if __name__ == "__main__":
    main()
