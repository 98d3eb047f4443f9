"""One training step of Meta-Experience Learning: section 3 of the paper on one screen.

Concurrency: `step` starts one coroutine per question and waits for all of them only because the advantage
normalisers are global; within `explore` nothing waits for another question. Texts are written while the policy trains.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

from mel_ray.config.schema import Config
from mel_ray.driver.gathering import gather, gather_mixed
from mel_ray.driver.guard import FailureGuard
from mel_ray.driver.metrics import Clock, step_metrics
from mel_ray.driver.planning import bare_trajectories, plan_lessons, plan_update
from mel_ray.driver.ports import Archive, Data, Engines, Experience, Policy, Rollout, Verifier
from mel_ray.mel.lessons import Memory
from mel_ray.mel.replay import proven
from mel_ray.records.exploration import Exploration
from mel_ray.records.report import StepReport
from mel_ray.records.seeds import derive_seed
from mel_ray.records.trajectory import Prompt, Sampling
from mel_ray.rl.assemble import assemble, shard
from mel_ray.rl.credit import Kl


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
        self.memory = Memory(cfg.mel.memory.size, cfg.mel.memory.max_age, cfg.run.seed)
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
        clock = Clock()
        explored, filtered = await self._explore_all(step)
        clock.lap("time/explore")
        self.guard.watch([*explored, *filtered])
        busy_share = await self.engines.busy_share()
        recording = asyncio.create_task(self.archive.record(step, [*explored, *filtered]))
        try:
            lessons = plan_lessons(explored, self.memory, self.cfg, step)
            batch = assemble(
                explored, lessons, self.cfg, await self._reward_kl(explored), filtered
            )  # credit and weights
            plan = plan_update(batch, self.cfg, self.policy.ranks, step)
            update = await self.policy.train(plan)  # Eq. 10
            clock.lap("time/train")
            if update.moved:
                self.version += 1
                await self.policy.publish(self.version)
        finally:
            await recording
        clock.lap("time/publish")
        metrics = step_metrics([*explored, *filtered], lessons, batch, update) | clock.total("time/step")
        metrics |= {"engine/busy_share": busy_share, "policy/lr": plan.lr, "policy/version": float(self.version)}
        return StepReport(step, metrics, batch.ledger)

    async def _explore_all(self, step: int) -> tuple[list[Exploration], list[Exploration]]:
        count, dynamic = self.cfg.rollout.prompts_per_step, self.cfg.algorithm.dynamic_sampling
        explore = partial(self.explore, step=step)
        if dynamic.enabled:
            gathered = await gather_mixed(explore, self.data, count, int(count * dynamic.max_factor))
        else:
            gathered = await gather(explore, self.data, count)
        return gathered.kept, gathered.filtered

    async def _reward_kl(self, explored: Sequence[Exploration]) -> Kl | None:
        """The KL of every trajectory to the reference, where the reward carries a penalty for it."""
        kl = self.cfg.algorithm.kl
        if not (kl.coefficient and kl.where == "reward"):
            return None
        specs = bare_trajectories(explored)
        shards = shard(specs, self.policy.ranks, self.cfg.cluster.policy.token_budget)
        found = await self.policy.divergence(shards, kl.estimator)
        facts = {
            (spec.ref, spec.index): fact
            for rank_specs, rank_facts in zip(shards, found, strict=True)
            for microbatch, its_facts in zip(rank_specs, rank_facts, strict=True)
            for spec, fact in zip(microbatch, its_facts, strict=True)
        }
        return {
            (question, index): facts[one.group.ref, index]
            for question, one in enumerate(explored)
            for index in range(len(one.group.facts.lengths))
        }

    def _sampling(self, prompt: Prompt, step: int) -> Sampling:
        rollout, seed = self.cfg.rollout, self.cfg.run.seed
        seeds = (derive_seed(seed, step, prompt.question_id, "rollout", i) for i in range(rollout.group_size))
        return Sampling(tuple(seeds), rollout.temperature, rollout.max_tokens, rollout.top_p)
