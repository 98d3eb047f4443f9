"""Evaluation on live engines: greedy and sampled answers to every question of a benchmark.

Concurrency: all questions are asked at once, and the pools take as many as they can; each is judged as soon as it is
answered. What a journal already knows is not asked again.
"""

import asyncio

from mel_ray.config.schema import Config
from mel_ray.evaluation.scores import summarise_results
from mel_ray.records.evaluation import Answered, Benchmark, QuestionResult
from mel_ray.records.incident import Poison
from mel_ray.records.ports import Journal, Rewards, Rollout, Turn
from mel_ray.records.reports import EvalReport
from mel_ray.records.trajectory import Prompt, Sampling, derive_seed

NOTHING = Answered((), (), ())


class Evaluator:
    """Pass@1 at temperature 0; Avg@n and Pass@k at `eval.temperature` (MEL's protocol: n = k = 8 at 0.6)."""

    def __init__(self, cfg: Config, rollout: Rollout, rewards: Rewards) -> None:
        self._cfg, self._rollout, self._rewards = cfg, rollout, rewards

    async def results(self, benchmark: Benchmark, journal: Journal) -> list[QuestionResult]:
        """Answers to every question, in the benchmark's order."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._question(prompt, journal)) for prompt in benchmark.prompts]
        return [task.result() for task in tasks]

    async def evaluate(self, benchmark: Benchmark, step: int, journal: Journal) -> EvalReport:
        settings = self._cfg.eval
        results = await self.results(benchmark, journal)
        scores = summarise_results(results, settings.samples, settings.ks)
        return EvalReport(benchmark.name, step, len(results), scores)

    async def _question(self, prompt: Prompt, journal: Journal) -> QuestionResult:
        settings = self._cfg.eval
        greedy, sampled = await asyncio.gather(
            self._answers(prompt, 1, 0.0, journal),
            self._answers(prompt, settings.samples, settings.temperature, journal),
        )
        return QuestionResult(prompt.question_id, greedy, sampled)

    async def _answers(self, prompt: Prompt, count: int, temperature: float, journal: Journal) -> Answered:
        if not count:
            return NOTHING
        known = journal.find(prompt.question_id, temperature, count)
        if known is not None:
            return known
        seeds = tuple(
            derive_seed(self._cfg.run.seed, "eval", prompt.question_id, f"{temperature:g}", i) for i in range(count)
        )
        sampling = Sampling(seeds, temperature, self._cfg.eval.max_tokens, self._cfg.eval.top_p if temperature else 1.0)
        try:
            judged = await self._rewards.judge(await self._rollout.generate(prompt, sampling, Turn.EVALUATION))
        except Poison:
            return Answered.nothing(count)
        await journal.add(judged, temperature)
        return Answered.of(judged)
