"""One training step of Meta-Experience Learning: section 3 of the paper on one screen.

Concurrency: `step` starts one coroutine per question and waits for all of them only because the advantage
normalisers are global; within `explore` nothing waits for another question. Texts are written while the policy trains.
"""

import asyncio
from functools import partial

from mel_ray.config.schema import Config
from mel_ray.driver.gathering import gather_step
from mel_ray.driver.guard import FailureGuard
from mel_ray.driver.metrics import Clock, step_metrics
from mel_ray.driver.planning import plan_lessons, plan_update
from mel_ray.records.ports import Archive, Data, Engines, Experience, Policy, Rollout, Verifier
from mel_ray.driver.reference import reward_kl
from mel_ray.mel.lesson import Memory
from mel_ray.mel.replay import proven
from mel_ray.records.exploration import Exploration
from mel_ray.records.report import StepReport
from mel_ray.records.seeds import derive_seed
from mel_ray.records.trajectory import Prompt, Sampling
from mel_ray.policy.batch import assemble


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
        gathered = await gather_step(partial(self.explore, step=step), self.data, self.cfg)
        clock.lap("time/explore")
        self.guard.watch(gathered.everything)
        busy_share = await self.engines.busy_share()
        recording = asyncio.create_task(self.archive.record(step, gathered.everything))
        try:
            explored = gathered.kept
            kl = await reward_kl(explored, self.policy, self.cfg)
            lessons = plan_lessons(explored, self.memory, self.cfg, step)
            batch = assemble(explored, lessons, self.cfg, kl, gathered.filtered)  # credit and weights
            plan = plan_update(batch, self.cfg, self.policy.ranks, step)
            update = await self.policy.train(plan)  # Eq. 10
            clock.lap("time/train")
            if update.moved:
                self.version += 1
                await self.policy.publish(self.version)
        finally:
            await recording
        clock.lap("time/publish")
        metrics = step_metrics(gathered.everything, lessons, batch, update) | clock.total("time/step")
        metrics |= {"engine/busy_share": busy_share, "policy/lr": plan.lr, "policy/version": float(self.version)}
        return StepReport(step, metrics, batch.ledger)

    def _sampling(self, prompt: Prompt, step: int) -> Sampling:
        rollout, seed = self.cfg.rollout, self.cfg.run.seed
        seeds = (derive_seed(seed, step, prompt.question_id, "rollout", i) for i in range(rollout.group_size))
        return Sampling(tuple(seeds), rollout.temperature, rollout.max_tokens, rollout.top_p)
