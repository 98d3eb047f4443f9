"""Evaluation on the live engines: Pass@1 greedy, Avg@k and Pass@k sampled, for any benchmark of prompts."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from mel_ray.config.schema import Config
from mel_ray.driver.ports import Rollout, Verifier
from mel_ray.records.exploration import GroupTicket
from mel_ray.records.report import EvalReport
from mel_ray.records.seeds import derive_seed
from mel_ray.records.trajectory import Prompt, Sampling
from mel_ray.records.verdict import GroupVerdict
from mel_ray.rl.pass_at_k import pass_at_k


@dataclass(frozen=True, slots=True)
class Benchmark:
    name: str
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True, slots=True)
class EvalResponses:
    """What was asked and answered: aligned with the benchmark's prompts; refs lead to the responses."""

    benchmark: Benchmark
    groups: tuple[GroupTicket, ...]
    verdicts: tuple[GroupVerdict, ...]


class Evaluator:
    def __init__(self, cfg: Config, rollout: Rollout, verifier: Verifier) -> None:
        self._cfg, self._rollout, self._verifier = cfg, rollout, verifier

    async def evaluate(self, benchmark: Benchmark, step: int) -> EvalReport:
        """Scores of one benchmark: `pass@1` at temperature 0; `avg@k`, `pass@k` at `eval.temperature`."""
        settings, k = self._cfg.eval, self._cfg.eval.samples
        greedy, sampled = await asyncio.gather(
            self._responses(benchmark, 1, 0.0), self._responses(benchmark, k, settings.temperature)
        )
        scores = {"pass@1": _mean([_passes(verdict) for verdict in greedy.verdicts])}
        if k:
            passes = [len(verdict.correct) for verdict in sampled.verdicts]
            scores[f"avg@{k}"] = _mean([count / k for count in passes])
            scores[f"pass@{k}"] = _mean([pass_at_k(k, count, k) for count in passes])
        reasons = [reason for group in greedy.groups for reason in group.facts.finish_reasons]
        scores["truncated"] = _mean([float(reason == "length") for reason in reasons])
        return EvalReport(benchmark.name, step, len(benchmark.prompts), scores)

    async def _responses(self, benchmark: Benchmark, count: int, temperature: float) -> EvalResponses:
        if not count:
            return EvalResponses(benchmark, (), ())
        answered = await asyncio.gather(*(self._one(prompt, count, temperature) for prompt in benchmark.prompts))
        return EvalResponses(benchmark, tuple(group for group, _ in answered), tuple(v for _, v in answered))

    async def _one(self, prompt: Prompt, count: int, temperature: float) -> tuple[GroupTicket, GroupVerdict]:
        seeds = tuple(
            derive_seed(self._cfg.run.seed, "eval", prompt.question_id, f"{temperature:g}", i) for i in range(count)
        )
        group = await self._rollout.generate(prompt, Sampling(seeds, temperature, self._cfg.eval.max_tokens))
        return group, await self._verifier.judge(group)


def _passes(verdict: GroupVerdict) -> float:
    return float(bool(verdict.correct))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
