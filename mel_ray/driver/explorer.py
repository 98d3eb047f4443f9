"""Explore: section 3.1-3.2 of the paper on one screen.

Concurrency: one coroutine per question. Nothing in `explore` waits for another question; only `batch` waits for all
of them, because the normalisers of the loss are global. The first failure cancels all.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from mel_ray.config.schema import Config
from mel_ray.driver.gathering import gather
from mel_ray.mel.replay import prove
from mel_ray.records.ports import Data, Experience, Rewards, Rollout
from mel_ray.records.row import Explored, Row, is_mixed
from mel_ray.records.seeds import derive_seed
from mel_ray.records.trajectory import Prompt, Sampling

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
