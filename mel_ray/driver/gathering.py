"""Which questions a step explores: a fixed number, or as many as it takes to find enough groups with signal.

Concurrency: one task per question; under dynamic sampling a question that ends without signal starts the next one at
once, without waiting for the others. The first failure cancels all.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from mel_ray.config.schema import Config
from mel_ray.records.ledger import TrajectoryFate
from mel_ray.records.ports import Data
from mel_ray.records.row import Explored, RowKind, is_mixed
from mel_ray.records.trajectory import Prompt

Explore = Callable[[Prompt], Awaitable[Explored]]


async def gather(explore: Explore, data: Data, config: Config) -> list[Explored]:
    """The explorations of a step: those that make up the batch, then those that dynamic sampling threw away, whose
    attempts carry the fate FILTERED. Both in the order of the data."""
    count, dynamic = config.rollout.prompts_per_step, config.algorithm.dynamic_sampling
    if dynamic.enabled:
        return await gather_mixed(explore, data, count, int(count * dynamic.max_factor))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_run(explore, prompt)) for prompt in data.take(count)]
    return [task.result() for task in tasks]


async def gather_mixed(explore: Explore, data: Data, count: int, most: int) -> list[Explored]:
    """Explore until `count` groups are mixed, but no more than `most` questions (dynamic sampling, DAPO, arXiv
    2503.14476).

    The questions asked are the shortest stretch of the data that holds `count` mixed groups, whatever the
    timing: for each group without signal exactly one more is asked.
    """
    tasks: list[asyncio.Task[Explored]] = []
    async with asyncio.TaskGroup() as group:

        async def one(prompt: Prompt) -> Explored:
            explored = await explore(prompt)
            if not is_mixed(explored) and len(tasks) < most:
                ask(1)
            return explored

        def ask(number: int) -> None:
            tasks.extend(group.create_task(one(prompt)) for prompt in data.take(number))

        ask(min(count, most))
    explored = [task.result() for task in tasks]
    return [one for one in explored if is_mixed(one)] + [_filtered(one) for one in explored if not is_mixed(one)]


def _filtered(explored: Explored) -> Explored:
    return tuple(replace(row, fate=TrajectoryFate.FILTERED) if row.kind is RowKind.ATTEMPT else row for row in explored)


async def _run(explore: Explore, prompt: Prompt) -> Explored:
    return await explore(prompt)
