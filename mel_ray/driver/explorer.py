"""Explore: section 3.1-3.2 of the paper on one screen.

Concurrency: one coroutine per question. Nothing in `explore` waits for another question; only `batch` waits for all
of them, because the normalisers of the loss are global. The first failure cancels all.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from mel_ray.config.schema import Config
from mel_ray.mel.replay import prove
from mel_ray.records.ledger import TrajectoryFate
from mel_ray.records.ports import Data, Experience, Rewards, Rollout
from mel_ray.records.row import Explored, Row, RowKind, is_mixed
from mel_ray.records.trajectory import Prompt, Sampling, derive_seed

FollowUp = tuple[Callable[[Sequence[Row]], bool], Callable[[Sequence[Row], int], Awaitable[tuple[Row, ...]]]]


class Explorer:
    """Asks the pools; holds rows, never tokens."""

    def __init__(self, cfg: Config, data: Data, rollout: Rollout, rewards: Rewards, experience: Experience) -> None:
        self.cfg, self.data = cfg, data
        self.rollout, self.rewards, self.experience = rollout, rewards, experience
        # What to do with a judged group: the drafts of every rule that applies to it.
        self.follow_ups: list[FollowUp] = [(is_mixed, self.contrast)] if cfg.mel.enabled else []

    async def batch(self, step: int) -> list[Explored]:
        """The explored questions of one step, in the order of the data."""
        return await gather(lambda prompt: self.explore(prompt, step), self.data, self.cfg)

    async def explore(self, prompt: Prompt, step: int) -> Explored:
        group = await self.rollout.generate(prompt, self._sampling(prompt, step))  # Y ~ pi(. | x)
        judged = await self.rewards.judge(group)  # Eq. 1
        drafts = [await draft(judged, step) for applies, draft in self.follow_ups if applies(judged)]
        return (*judged, *(row for rows in drafts for row in rows))

    async def contrast(self, judged: Sequence[Row], step: int) -> tuple[Row, ...]:
        """A mixed group's meta-experiences, and which of them are proven."""
        drafts = await self.experience.abstract(judged, step)  # Eqs. 2-5
        replays = await asyncio.gather(*(self._replay(draft, step) for draft in drafts))
        return prove(drafts, replays, self.cfg.mel.min_correct_replays)  # Eq. 6

    async def _replay(self, draft: Row, step: int) -> tuple[Row, ...]:
        if draft.fate is not None:
            return ()  # rejected before a replay
        return await self.rewards.judge(await self.experience.replay(draft, step))  # y_val ~ pi(. | x, M)

    def _sampling(self, prompt: Prompt, step: int) -> Sampling:
        rollout, seed = self.cfg.rollout, self.cfg.run.seed
        seeds = (derive_seed(seed, step, prompt.question_id, "rollout", i) for i in range(rollout.group_size))
        return Sampling(tuple(seeds), rollout.temperature, rollout.max_tokens, rollout.top_p)


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
