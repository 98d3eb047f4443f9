"""Explore: section 3.1-3.2 of the paper on one screen.

Concurrency: one coroutine per question. Nothing here waits for another question; only a batch waits for all of its
own (driver/batches.py), because the normalisers of the loss are global.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from mel_ray.config.schema import Config
from mel_ray.driver.order import AsItComes, Order
from mel_ray.mel.book import Book
from mel_ray.mel.guidance import joining
from mel_ray.mel.hint import lending
from mel_ray.mel.replay import prove
from mel_ray.records.experience import RULE_COLUMN
from mel_ray.records.incident import LostRecords, Poison
from mel_ray.records.ledger import DraftFate
from mel_ray.records.ports import Experience, Rewards, Rollout, Turn
from mel_ray.records.row import Explored, Row, RowKind, is_all_wrong, is_mixed, success_rate
from mel_ray.records.trajectory import Prompt, Sampling, derive_seed

Applies = Callable[[Sequence[Row]], bool]
GROUPS: dict[str, tuple[Applies, ...]] = {
    "none": (),
    "mixed": (is_mixed,),
    "wrong": (is_all_wrong,),
    "both": (is_mixed, is_all_wrong),
}
FollowUp = tuple[Applies, Callable[[Prompt, Sequence[Row], int], Awaitable[tuple[Row, ...]]]]


class Explorer:
    """Asks the pools; holds rows, never tokens."""

    def __init__(
        self, cfg: Config, rollout: Rollout, rewards: Rewards, experience: Experience, order: Order | None = None,
        quarantined: list[str] | None = None, book: Book | None = None,
    ) -> None:  # fmt: skip
        """`quarantined`: gets the ids of questions that ended two actors. `book`: lessons of other questions."""
        self.book = book
        self.quarantined = [] if quarantined is None else quarantined
        self.cfg, self.order = cfg, order or AsItComes()
        self.rollout, self.rewards, self.experience = rollout, rewards, experience
        # What to do with a judged group: the drafts of every rule that applies to it.
        groups = GROUPS[cfg.mel.write] if cfg.mel.enabled else ()
        self.follow_ups: list[FollowUp] = [(applies, self.contrast) for applies in groups]

    async def explore(self, prompt: Prompt, step: int) -> Explored:
        async with self.order.sampling(step, (prompt.question_id, "rollout")):
            try:
                sampling = self._sampling(prompt, step, "rollout", self.cfg.rollout.group_size)
                group = await self.rollout.generate(prompt, sampling)  # Y ~ pi(. | x)
            except Poison:  # the pool has told who died of it
                self.quarantined.append(prompt.question_id)
                return ()
        judged = await self.rewards.judge(group)  # Eq. 1
        recalled = await self._recall(prompt, judged, step)
        is_helped = any(lesson.is_proven for lesson in recalled)
        rules = [] if is_helped else self.follow_ups
        drafted = [await draft(prompt, judged, step) for applies, draft in rules if applies(judged)]
        more = await self._resample(prompt, judged, step)
        self.order.explored(step, prompt.question_id)
        drafts = lending([*recalled, *(draft for rows in drafted for draft in rows)], self.cfg.mel)
        return (*judged, *drafts, *joining(judged, drafts, self.cfg.mel), *more)

    async def _resample(self, prompt: Prompt, judged: Sequence[Row], step: int) -> tuple[Row, ...]:
        """More attempts without a lesson, of the groups that `rollout.resample` names."""
        rollout = self.cfg.rollout
        if not any(applies(judged) for applies in GROUPS[rollout.resample]):
            return ()
        async with self.order.sampling(step, (prompt.question_id, RowKind.RESAMPLED.value)):
            try:
                sampling = self._sampling(prompt, step, RowKind.RESAMPLED, rollout.resample_size or rollout.group_size)
                group = await self.rollout.generate(prompt, sampling, Turn.STARTED)
            except Poison:
                return ()
        return tuple(replace(row, kind=RowKind.RESAMPLED) for row in await self.rewards.judge(group))

    async def _recall(self, prompt: Prompt, judged: Sequence[Row], step: int) -> tuple[Row, ...]:
        """For an all-wrong group, the best lesson of another question, replayed here."""
        mel = self.cfg.mel
        if not mel.enabled or mel.retrieval.method == "none" or self.book is None or not is_all_wrong(judged):
            return ()
        found = await asyncio.to_thread(self.book.find, prompt.question_id, prompt.question.text)
        if found is None:
            return ()
        async with self.order.sampling(step, (prompt.question_id, RowKind.RECALLED.value)):
            try:
                replays = await self.experience.recall(judged, found.row, step)
            except Poison:
                return ()
            except LostRecords:
                self.book.forget(found)
                return ()
        lesson = replace(found.row, kind=RowKind.RECALLED, question_id=prompt.question_id, age=step - found.step,
                         states_rule=None)  # fmt: skip
        return self._proven([lesson], [await self.rewards.judge(replays)], judged) if replays else ()

    async def contrast(self, prompt: Prompt, judged: Sequence[Row], step: int) -> tuple[Row, ...]:
        """A group's meta-experiences, and which of them are proven."""
        async with self.order.sampling(step, (judged[0].question_id, "drafts")):
            try:
                drafts = await self.experience.abstract(judged, step)  # Eqs. 2-5
            except Poison:
                return ()
        async with asyncio.TaskGroup() as group:
            replays = [group.create_task(self._replay(prompt, draft, step)) for draft in drafts]
        drafts, judged_replays = zip(*(one.result() for one in replays), strict=True) if replays else ((), ())
        return self._proven(drafts, judged_replays, judged)

    def _proven(
        self, drafts: Sequence[Row], replays: Sequence[Sequence[Row]], judged: Sequence[Row]
    ) -> tuple[Row, ...]:
        mel = self.cfg.mel
        min_gain = mel.min_gain if mel.keep == "gain" else None
        return prove(drafts, replays, mel.min_correct_replays, success_rate(judged), min_gain)  # Eq. 6

    def _other(self, prompt: Prompt, step: int) -> Row | None:
        if self.cfg.mel.lesson != "shuffled" or self.book is None:
            return None
        seed = derive_seed(self.cfg.run.seed, step, prompt.question_id, "other")
        return self.book.any_other(prompt.question_id, seed, prompt.question.columns.get(RULE_COLUMN))

    async def _replay(self, prompt: Prompt, draft: Row, step: int) -> tuple[Row, tuple[Row, ...]]:
        if draft.fate is not None:
            return draft, ()  # rejected before a replay
        async with self.order.sampling(step, (draft.question_id, f"replay-{draft.index}")):
            try:
                replays = await self.experience.replay(draft, step, self._other(prompt, step))  # y_val ~ pi(. | x, M)
            except Poison:
                return replace(draft, fate=DraftFate.REPLAY_UNVERIFIED), ()
        return draft, await self.rewards.judge(replays)

    def _sampling(self, prompt: Prompt, step: int, purpose: str, count: int) -> Sampling:
        rollout, seed = self.cfg.rollout, self.cfg.run.seed
        seeds = (derive_seed(seed, step, prompt.question_id, purpose, i) for i in range(count))
        return Sampling(tuple(seeds), rollout.temperature, rollout.max_tokens, rollout.top_p)
