"""Which questions a step explores: a fixed number, or as many as it takes to find enough groups with signal.

Concurrency: one task per question; under dynamic sampling a question that ends without signal starts the next one at
once, without waiting for the others. The first failure cancels all.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mel_ray.config.schema import Config
from mel_ray.records.ports import Data
from mel_ray.records.exploration import Exploration
from mel_ray.records.trajectory import Prompt

Explore = Callable[[Prompt], Awaitable[Exploration]]


@dataclass(frozen=True, slots=True)
class Gathered:
    """`kept` make up the batch; `filtered` were thrown away by dynamic sampling. Both in the order of the data."""

    kept: list[Exploration]
    filtered: list[Exploration]

    @property
    def everything(self) -> list[Exploration]:
        return [*self.kept, *self.filtered]


async def gather_step(explore: Explore, data: Data, config: Config) -> Gathered:
    """The explorations of a step, as the configuration wants them."""
    count, dynamic = config.rollout.prompts_per_step, config.algorithm.dynamic_sampling
    if dynamic.enabled:
        return await gather_mixed(explore, data, count, int(count * dynamic.max_factor))
    return await gather(explore, data, count)


async def gather(explore: Explore, data: Data, count: int) -> Gathered:
    """Explore `count` questions, whatever comes of them."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_run(explore, prompt)) for prompt in data.take(count)]
    return Gathered([task.result() for task in tasks], [])


async def gather_mixed(explore: Explore, data: Data, count: int, most: int) -> Gathered:
    """Ask on until `count` groups are mixed, but for no more than `most` questions (dynamic sampling, DAPO, arXiv
    2503.14476).

    The questions asked are the shortest stretch of the data that holds `count` mixed groups, whatever the
    timing: for each group without signal exactly one more is asked.
    """
    tasks: list[asyncio.Task[Exploration]] = []
    async with asyncio.TaskGroup() as group:

        async def one(prompt: Prompt) -> Exploration:
            explored = await explore(prompt)
            if not explored.verdict.is_mixed and len(tasks) < most:
                ask(1)
            return explored

        def ask(number: int) -> None:
            tasks.extend(group.create_task(one(prompt)) for prompt in data.take(number))

        ask(min(count, most))
    explored = [task.result() for task in tasks]
    return Gathered([e for e in explored if e.verdict.is_mixed], [e for e in explored if not e.verdict.is_mixed])


async def _run(explore: Explore, prompt: Prompt) -> Exploration:
    return await explore(prompt)
