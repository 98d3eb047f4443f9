"""Pass rates: how often the policy solves each training question, sampled as in training.

Concurrency: all questions are asked at once, and the pools take as many as they can. Each is judged and reported as
soon as it is answered, so that an interruption loses only what is under way.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from mel_ray.config.schema import Config
from mel_ray.records.evaluation import PassRate
from mel_ray.records.incident import Poison
from mel_ray.records.ports import Rewards, Rollout
from mel_ray.records.problem import counted
from mel_ray.records.row import Row
from mel_ray.records.trajectory import FinishReason, Prompt, Sampling, derive_seed
from mel_ray.records.verdict import Outcome

WIDTH = 40  # of the longest bar
Report = Callable[[PassRate, Sequence[Row]], None]


async def measure(
    prompts: Iterable[Prompt], samples: int, cfg: Config, rollout: Rollout, rewards: Rewards, report: Report
) -> None:
    """`samples` answers to every question, at rollout.temperature; `report` hears of each."""

    async def one(prompt: Prompt) -> None:
        try:
            judged = await rewards.judge(await rollout.generate(prompt, _sampling(prompt, samples, cfg)))
        except Poison:
            return  # the pool has told who died of it
        report(pass_rate_of(prompt, judged), judged)

    async with asyncio.TaskGroup() as group:
        for prompt in prompts:
            group.create_task(one(prompt))


def _sampling(prompt: Prompt, samples: int, cfg: Config) -> Sampling:
    seeds = (derive_seed(cfg.run.seed, "pass-rate", prompt.question_id, index) for index in range(samples))
    return Sampling(tuple(seeds), cfg.rollout.temperature, cfg.rollout.max_tokens, cfg.rollout.top_p)


def pass_rate_of(prompt: Prompt, judged: Sequence[Row]) -> PassRate:
    verdicts = [row.verdict for row in judged if row.verdict]
    return PassRate(
        prompt.question_id,
        prompt.question.text,
        prompt.question.source,
        samples=len(judged),
        correct=sum(verdict.is_correct for verdict in verdicts),
        truncated=sum(row.finish_reason is FinishReason.LENGTH for row in judged),
        no_answer=sum(verdict.outcome is Outcome.NO_ANSWER for verdict in verdicts),
        failed=sum(verdict.has_failed for verdict in verdicts),
    )


def histogram_text(rates: Sequence[PassRate], band: tuple[float, float] = (0.1, 0.9)) -> str:
    """How many questions have which pass rate, and of each source the mean and how many are within a band."""
    if not rates:
        return "no questions measured"
    counts = Counter(map(_bin, rates))
    samples, top, (low, high) = rates[0].samples, max(counts.values()), band
    lines = [f"pass rates of {counted(len(rates), 'question')}, {counted(samples, 'sample')} each"]
    for label in _bins(samples):
        bar = "#" * -(-WIDTH * counts[label] // top)
        lines.append(f"  {label:>7}  {counts[label]:>6}  {bar}".rstrip())
    by_source: dict[str, list[float]] = {}
    for rate in rates:
        by_source.setdefault(rate.source, []).append(rate.pass_rate)
    for name, own in by_source.items():
        kept = sum(low <= rate <= high for rate in own)
        lines.append(f"{name}: mean {sum(own) / len(own):.3f}; {kept} of {len(own)} within [{low:g}, {high:g}]")
    return "\n".join(lines)


def _bins(samples: int) -> list[str]:
    """Every possible rate; of more than ten samples 0, 1 and ten bins between them."""
    if samples <= 10:
        return [f"{correct}/{samples}" for correct in range(samples + 1)]
    return ["0", *(f"{tenth / 10:.1f}-{(tenth + 1) / 10:.1f}" for tenth in range(10)), "1"]


def _bin(rate: PassRate) -> str:
    bins = _bins(rate.samples)
    if rate.samples <= 10:
        return bins[rate.correct]
    if rate.correct == rate.samples:
        return bins[-1]
    return bins[1 + 10 * rate.correct // rate.samples] if rate.correct else bins[0]
