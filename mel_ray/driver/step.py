"""One training step of Meta-Experience Learning: section 3 of the paper on one screen.

Concurrency: `step` starts one coroutine per question and waits for all of them only because the advantage
normalisers are global; within `explore` nothing waits for another question.
"""

import asyncio
import time
from collections.abc import Sequence

from mel_ray.config.schema import Config
from mel_ray.driver.guard import FailureGuard
from mel_ray.driver.metrics import step_metrics
from mel_ray.driver.ports import Archive, Data, Engines, Experience, Policy, Rollout, Verifier
from mel_ray.mel.replay import proven
from mel_ray.records.exploration import Exploration
from mel_ray.records.report import StepReport
from mel_ray.records.seeds import derive_seed
from mel_ray.records.trajectory import Prompt, Sampling
from mel_ray.rl.assemble import AssemblySettings, assemble, shard
from mel_ray.rl.schedule import learning_rate


class Stepper:
    """Conducts the pools through steps; holds refs, rewards and lengths, never tokens."""

    def __init__(
        self,
        cfg: Config,
        data: Data,
        rollout: Rollout,
        verifier: Verifier,
        experience: Experience,
        policy: Policy,
        engines: Engines,
        archive: Archive,
    ) -> None:
        self.cfg, self.data = cfg, data
        self.rollout, self.verifier, self.experience, self.policy = rollout, verifier, experience, policy
        self.engines, self.archive = engines, archive
        self.guard = FailureGuard(cfg.reward.max_failure_rate)
        self.version = 0

    async def explore(self, prompt: Prompt, step: int) -> Exploration:
        group = await self.rollout.generate(prompt, self._sampling(prompt, step))  # Y ~ pi(. | x)
        verdict = await self.verifier.judge(group)  # Eq. 1
        if not (self.cfg.mel.enabled and verdict.is_mixed):
            return Exploration(group, verdict)
        drafts = await self.experience.abstract(group, verdict, step)  # Eqs. 2-5
        parsed = [draft for draft in drafts if draft.facts.state == "parsed"]
        replays = await asyncio.gather(*(self.experience.replay(draft, step) for draft in parsed))
        judged = await asyncio.gather(*(self.verifier.judge(replay.group) for replay in replays))
        lessons = proven(drafts, replays, judged, self.cfg.mel.min_correct_replays)  # Eq. 6
        return Exploration(group, verdict, lessons)

    async def step(self, step: int) -> StepReport:
        started = time.monotonic()
        prompts = self.data.take(self.cfg.rollout.prompts_per_step)
        explored = await self._explore_all(prompts, step)
        self.guard.watch(explored)
        explored_at = time.monotonic()
        busy_share = await self.engines.busy_share()
        batch = assemble(explored, self._assembly)  # advantages and weights of Eq. 10
        shards = [shard(m, self.policy.ranks, self.cfg.cluster.policy.token_budget) for m in batch.minibatches]
        lr = learning_rate(self.cfg.algorithm, step, self.cfg.run.steps)
        recording = asyncio.create_task(self.archive.record(step, explored))
        try:
            update = await self.policy.train(shards, lr)  # Eq. 10
            trained_at = time.monotonic()
            if update.optimizer_steps:
                self.version += 1
                await self.policy.publish(self.version)
        finally:
            await recording
        published_at = time.monotonic()
        phases = {
            "time/explore": explored_at - started,
            "time/train": trained_at - explored_at,
            "time/publish": published_at - trained_at,
            "time/step": published_at - started,
        }
        metrics = step_metrics(explored, batch, update) | phases
        metrics |= {"engine/busy_share": busy_share, "policy/lr": lr, "policy/version": float(self.version)}
        return StepReport(step, metrics, batch.ledger)

    async def _explore_all(self, prompts: Sequence[Prompt], step: int) -> list[Exploration]:
        async with asyncio.TaskGroup() as group:  # the first failure cancels the other questions
            tasks = [group.create_task(self.explore(prompt, step)) for prompt in prompts]
        return [task.result() for task in tasks]

    def _sampling(self, prompt: Prompt, step: int) -> Sampling:
        rollout, seed = self.cfg.rollout, self.cfg.run.seed
        seeds = (derive_seed(seed, step, prompt.question_id, "rollout", i) for i in range(rollout.group_size))
        return Sampling(tuple(seeds), rollout.temperature, rollout.max_tokens, rollout.top_p)

    @property
    def _assembly(self) -> AssemblySettings:
        algorithm = self.cfg.algorithm
        return AssemblySettings(
            aggregation=algorithm.aggregation,
            advantage_eps=algorithm.advantage_eps,
            max_tokens=self.cfg.rollout.max_tokens,
            minibatches=algorithm.minibatches,
            nll_weight=self.cfg.mel.weight,
            mask_truncated=algorithm.mask_truncated,
        )
