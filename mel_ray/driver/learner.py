"""Learn: section 3.3 of the paper on one screen.

Consumes the explored questions of a step, produces an update of the policy. Waits for the policy pool; while that
trains, the archive writes the step's texts.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mel_ray.config.schema import Config
from mel_ray.mel.book import Book
from mel_ray.mel.hint import hint_credit, hints_of
from mel_ray.mel.lesson import lessons_of
from mel_ray.mel.memory import Memory
from mel_ray.policy.batch import map_rows, optimizer_steps, rows_in, settle_fates, shard
from mel_ray.policy.policy_settings import experience_weight, factor, learning_rate, loss_settings
from mel_ray.policy.rows import Lessons, decide, kl_penalty_to_go, rows_of, score, weigh
from mel_ray.records.ports import Archive, Policy
from mel_ray.records.reports import UpdateReport
from mel_ray.records.row import Explored, Ref, Row, RowKind, solutions
from mel_ray.records.step import OptimizerStep, Shards, TrainSettings
from mel_ray.records.trajectory import Floats

LogprobsOf = dict[tuple[Ref | None, int], Floats]


@dataclass(frozen=True, slots=True)
class Learned:
    """`rows` are those of the step with their final fates."""

    rows: list[Row]
    lessons: Lessons
    minibatches: int
    settings: TrainSettings
    update: UpdateReport
    recording: asyncio.Task[None]


class Learner:
    def __init__(self, cfg: Config, policy: Policy, memory: Memory, archive: Archive, book: Book) -> None:
        """`book`: where other questions find the lessons of this one."""
        self.cfg, self.policy, self.memory, self.archive, self.book = cfg, policy, memory, archive, book

    async def learn(self, step: int, explored: Sequence[Explored], version: int = 0) -> Learned:
        """`version`: the weights that the policy has."""
        rows = rows_of(explored)
        settings = self._settings(
            step, version, any(row.is_older_than(version) for row in rows if row.kind is not RowKind.RECALLED)
        )
        oldest = version - self.cfg.driver.max_staleness
        try:
            rows, lessons, minibatches = await self._weighed(rows, step, oldest)
            steps = await self._with_logprobs(self._steps(minibatches, step), settings)
        except BaseException:
            await self.archive.record(step, rows, version)  # nothing explored is lost
            raise
        rows = settle_fates(rows, steps, oldest)
        recording = asyncio.create_task(self.archive.record(step, rows, version))
        try:
            await self.book.add(step, rows)
            update = await self.policy.train(steps, settings)  # Eqs. 7, 9, 10
        except BaseException:
            await recording
            raise
        return Learned(rows, lessons, len(minibatches), settings, update, recording)

    async def _weighed(
        self, rows: list[Row], step: int, oldest: int
    ) -> tuple[list[Row], Lessons, list[tuple[Row, ...]]]:
        """Reward and credit, who takes part, what is internalised, and the weight of every token."""
        algorithm = self.cfg.algorithm
        rows = await self._with_penalty_logprobs(rows)
        rows = score(rows, algorithm, self.cfg.rollout.max_tokens, self._penalties(rows))
        left_out = oldest if self.cfg.driver.stale == "drop" else None
        rows = await self._with_hints(rows, step, left_out)
        rows = decide(rows, algorithm, left_out)
        lessons = self._lessons(rows, step)
        return rows, lessons, weigh(rows, lessons, self.cfg)

    def _settings(self, step: int, version: int, has_older: bool) -> TrainSettings:
        """`has_older`: older weights sampled some of the batch; on policy that is so after a run explored ahead."""
        algorithm, mel = self.cfg.algorithm, self.cfg.mel
        slow_every = mel.reptile.every if mel.enabled else 0
        return TrainSettings(
            lr=learning_rate(algorithm, step, self.cfg.run.steps),
            loss=loss_settings(algorithm, mel),
            epochs=algorithm.epochs,
            version=version if self.cfg.is_off_policy or has_older else None,
            slow_rate=mel.reptile.rate if slow_every and step % slow_every == 0 else None,
        )

    def _lessons(self, rows: Sequence[Row], step: int) -> Lessons:
        """This step's lessons and those drawn from memory, which then learns of the new ones.

        Where the two objectives are not simply added, the weight lies elsewhere: in the gradient's scale (balanced)
        or in the learning rate (separate).
        """
        mel = self.cfg.mel
        weight = experience_weight(mel, step, self.cfg.run.steps)
        if not (mel.enabled and weight):
            return Lessons()
        fresh = lessons_of(rows, mel)
        past = self.memory.draw(step, mel.memory.per_step)
        self.memory.add(step, fresh)
        weight = weight if mel.combination == "joint" else 1.0
        return Lessons(fresh, weight, past, weight * mel.memory.weight)

    def _steps(self, minibatches: Sequence[Sequence[Row]], step: int) -> tuple[OptimizerStep, ...]:
        every, mel = self.cfg.observe.gradient_split_every, self.cfg.mel
        weight = experience_weight(mel, step, self.cfg.run.steps)
        is_split_due = every > 0 and step % every == 0
        return optimizer_steps(
            minibatches, mel, weight, self.policy.shards, self._token_budget, is_split_due, self._is_packed
        )

    @property
    def _token_budget(self) -> int:
        return self.cfg.cluster.policy.token_budget

    @property
    def _is_packed(self) -> bool:
        return self.cfg.cluster.policy.packing == "packed"

    # -- scoring passes, where credit or the ratio's denominator needs them

    async def _with_penalty_logprobs(self, rows: list[Row]) -> list[Row]:
        """The batch's attempts with logprobs under the current and the initial policy, where a KL penalty in the
        reward or in the return needs them."""
        kl = self.cfg.algorithm.kl
        scored = [row for row in solutions(rows) if row.group >= 0 and row.trained_tokens]
        if not (scored and kl.coefficient and kl.where != "loss"):
            return rows
        shards = self._shard(scored)
        old, reference = await self._logprobs(shards), await self._logprobs(shards, of_reference=True)
        return [
            replace(row, old_logprobs=old[row.sample], reference_logprobs=reference[row.sample])
            if row.sample in old
            else row
            for row in rows
        ]

    async def _with_hints(self, rows: list[Row], step: int, oldest: int | None = None) -> list[Row]:
        """Attempts with the credit that a lesson of their question gives each of their tokens, in addition; lessons
        that older weights than version `oldest` wrote are left out."""
        mel = self.cfg.mel
        hints = hints_of(rows, mel.contrast, oldest) if "hint" in mel.credit else []
        if not hints:
            return rows
        bare = await self._logprobs(self._shard([hint.attempt for hint in hints]))
        lesson = await self._logprobs(self._shard([hint.with_lesson for hint in hints]))
        contrasted = [hint.with_wrong_lesson for hint in hints if hint.with_wrong_lesson is not None]
        wrong = await self._logprobs(self._shard(contrasted)) if contrasted else {}
        scheduled, added = factor(mel.hint.schedule, 0, step, self.cfg.run.steps), LogprobsOf()
        for hint in hints:
            sample, verdict = hint.attempt.sample, hint.attempt.verdict
            is_correct = verdict is not None and verdict.is_correct
            share = scheduled * (hint.gain if mel.keep == "gain" and hint.gain is not None else 1.0)
            added[sample] = hint_credit(bare[sample], lesson[sample], wrong.get(sample), is_correct, share, mel.hint)
        return [replace(row, credit=row.credit + added[row.sample]) if row.sample in added else row for row in rows]

    def _shard(self, rows: Sequence[Row]) -> Shards:
        return shard(rows, self.policy.shards, self._token_budget, self._is_packed)

    def _penalties(self, rows: Sequence[Row]) -> LogprobsOf:
        kl, found = self.cfg.algorithm.kl, {}
        for row in rows:
            if row.old_logprobs is not None and row.reference_logprobs is not None:
                found[row.sample] = kl_penalty_to_go(
                    row.old_logprobs, row.reference_logprobs, kl.estimator, kl.coefficient
                )
        if not found:
            return {}
        nothing = {row.sample: np.zeros(row.trained_tokens, dtype=np.float32) for row in solutions(rows)}
        return nothing | found

    async def _with_logprobs(
        self, steps: Sequence[OptimizerStep], settings: TrainSettings
    ) -> tuple[OptimizerStep, ...]:
        """The steps with what their loss compares with: the ratio's denominator, where an optimizer step comes before
        another on attempts, and the reference."""
        is_repeated = settings.epochs > 1 or any(step.optimizer == "policy" for step in steps[1:])
        has_guided = any(row.is_guided for step in steps for row in rows_in(step.shards))
        has_old = is_repeated and (settings.loss.denominator == "proximal" or has_guided)
        result = []
        for step in steps:
            shards = step.shards
            if has_old:
                shards = await self._attached(shards, of_reference=False)
            else:
                shards = map_rows(shards, _without_old_logprobs)
            if settings.loss.needs_reference:
                shards = await self._attached(shards, of_reference=True)
            result.append(replace(step, shards=shards))
        return tuple(result)

    async def _attached(self, shards: Shards, of_reference: bool) -> Shards:
        known = [
            row.reference_logprobs if of_reference else row.old_logprobs for row in rows_in(shards) if not row.is_lesson
        ]
        if all(logprobs is not None for logprobs in known):
            return shards  # known since the penalty; a lesson needs none
        found = await self._logprobs(shards, of_reference)

        def with_field(row: Row, logprobs: Floats) -> Row:
            if of_reference:
                return replace(row, reference_logprobs=logprobs)
            return replace(row, old_logprobs=logprobs)

        return map_rows(shards, lambda row: with_field(row, found[row.ref, row.index]))

    async def _logprobs(self, shards: Shards, of_reference: bool = False) -> LogprobsOf:
        """By reference and index of what was scored."""
        scored, found = await self.policy.score(shards, of_reference), {}
        for rank, of_rank in zip(shards, scored, strict=True):
            for microbatch, arrays in zip(rank, of_rank, strict=True):
                for row, logprobs in zip(microbatch, arrays, strict=True):
                    # A filler is a row's weightless copy in another microbatch: the row's own value counts.
                    if row.has_weight or (row.ref, row.index) not in found:
                        found[row.ref, row.index] = logprobs
        return found


def _without_old_logprobs(row: Row) -> Row:
    return row if row.old_logprobs is None else replace(row, old_logprobs=None)
