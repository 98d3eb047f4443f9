"""Explore: section 3.1-3.2 of the paper on one screen.

Concurrency: one coroutine per question. Nothing here waits for another question; only a batch waits for all of its
own (driver/batches.py), because the normalisers of the loss are global.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from mel_ray.config.schema import Config
from mel_ray.driver.order import AsItComes, Order
from mel_ray.mel.replay import prove
from mel_ray.records.incident import Poison
from mel_ray.records.ledger import DraftFate
from mel_ray.records.ports import Experience, Rewards, Rollout
from mel_ray.records.row import Explored, Row, is_mixed
from mel_ray.records.trajectory import Prompt, Sampling, derive_seed

FollowUp = tuple[Callable[[Sequence[Row]], bool], Callable[[Sequence[Row], int], Awaitable[tuple[Row, ...]]]]


class Explorer:
    """Asks the pools; holds rows, never tokens."""

    def __init__(
        self, cfg: Config, rollout: Rollout, rewards: Rewards, experience: Experience, order: Order | None = None,
        quarantined: list[str] | None = None,
    ) -> None:  # fmt: skip
        """`quarantined`: gets the ids of questions that ended two actors."""
        self.quarantined = [] if quarantined is None else quarantined
        self.cfg, self.order = cfg, order or AsItComes()
        self.rollout, self.rewards, self.experience = rollout, rewards, experience
        # What to do with a judged group: the drafts of every rule that applies to it.
        self.follow_ups: list[FollowUp] = [(is_mixed, self.contrast)] if cfg.mel.enabled else []

    async def explore(self, prompt: Prompt, step: int) -> Explored:
        async with self.order.sampling(step, (prompt.question_id, "rollout")):
            try:
                group = await self.rollout.generate(prompt, self._sampling(prompt, step))  # Y ~ pi(. | x)
            except Poison:  # the pool has told who died of it
                self.quarantined.append(prompt.question_id)
                return ()
        judged = await self.rewards.judge(group)  # Eq. 1
        drafts = [await draft(judged, step) for applies, draft in self.follow_ups if applies(judged)]
        self.order.explored(step, prompt.question_id)
        return (*judged, *(row for rows in drafts for row in rows))

    async def contrast(self, judged: Sequence[Row], step: int) -> tuple[Row, ...]:
        """A mixed group's meta-experiences, and which of them are proven."""
        async with self.order.sampling(step, (judged[0].question_id, "drafts")):
            try:
                drafts = await self.experience.abstract(judged, step)  # Eqs. 2-5
            except Poison:
                return ()
        async with asyncio.TaskGroup() as group:
            replays = [group.create_task(self._replay(draft, step)) for draft in drafts]
        drafts, judged_replays = zip(*(one.result() for one in replays), strict=True) if replays else ((), ())
        return prove(drafts, judged_replays, self.cfg.mel.min_correct_replays)  # Eq. 6

    async def _replay(self, draft: Row, step: int) -> tuple[Row, tuple[Row, ...]]:
        if draft.fate is not None:
            return draft, ()  # rejected before a replay
        async with self.order.sampling(step, (draft.question_id, f"replay-{draft.index}")):
            try:
                replays = await self.experience.replay(draft, step)  # y_val ~ pi(. | x, M)
            except Poison:
                return replace(draft, fate=DraftFate.REPLAY_UNVERIFIED), ()
        return draft, await self.rewards.judge(replays)

    def _sampling(self, prompt: Prompt, step: int) -> Sampling:
        rollout, seed = self.cfg.rollout, self.cfg.run.seed
        seeds = (derive_seed(seed, step, prompt.question_id, "rollout", i) for i in range(rollout.group_size))
        return Sampling(tuple(seeds), rollout.temperature, rollout.max_tokens, rollout.top_p)
