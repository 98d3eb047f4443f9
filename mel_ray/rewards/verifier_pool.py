"""The rewards pool: judges whole groups in child processes that a deadline kills and replaces.

Consumes the rows of a group, produces them with verdicts. An actor is handed one group at a time, so a call's deadline
counts its own judgements; the rest waits in the pool, where no deadline counts.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ray

from mel_ray.actors.handles import Handle, stored
from mel_ray.actors.placement import Placement, options_of
from mel_ray.actors.process import redirect_output, runtime_env
from mel_ray.config.plan import PoolPlan
from mel_ray.config.schema import ClusterConfig, RewardConfig
from mel_ray.records.row import Row
from mel_ray.records.trajectory import Group
from mel_ray.records.verdict import Verdict
from mel_ray.rewards.verifier import Verifier, VerifierSettings


class VerifierActor:
    """One killable judging process and the actor that guards it."""

    def __init__(self, settings: VerifierSettings, log: Path | None) -> None:
        redirect_output(log)
        self._verifier = Verifier(settings)

    def judge(self, group: Group) -> tuple[Verdict, ...]:
        """V(y_i, y*) for every trajectory (MEL Eq. 1)."""
        texts = [trajectory.text for trajectory in group.trajectories]
        lengths = [len(trajectory.token_ids) for trajectory in group.trajectories]
        return self._verifier.judge_all(texts, group.prompt.question, lengths)

    def ready(self) -> None:
        self._verifier.self_test()


class VerifierPool:
    """As many judges as the plan says; each group goes to one that is free.

    `max_tokens` is the longest completion in training, which the built-in part `length` measures against.
    """

    def __init__(
        self, plan: PoolPlan, cluster: ClusterConfig, reward: RewardConfig, logs: Path | None, max_tokens: int = 0,
        placement: Placement | None = None,
    ) -> None:  # fmt: skip
        judging = VerifierSettings(
            cluster.verifier.deadline, reward.extract, reward.function, reward.parts, max_tokens=max_tokens
        )
        self._deadlines = cluster.deadlines
        log = logs / "verifier.log" if logs else None
        environment = runtime_env(threads=plan.threads)

        def start(index: int) -> Handle[VerifierActor]:
            options = options_of(plan, index, placement)
            actor = ray.remote(VerifierActor).options(runtime_env=environment, **options)
            return Handle(f"{plan.name}-{index}", actor.remote(judging, log), log)

        self.judges = [start(index) for index in range(plan.actors)]
        self._free: asyncio.Queue[Handle[VerifierActor]] = asyncio.Queue()
        for judge in self.judges:
            self._free.put_nowait(judge)

    async def ready(self) -> None:
        await asyncio.gather(*(judge.ask(VerifierActor.ready, self._deadlines.start, "start") for judge in self.judges))

    async def judge(self, group: Sequence[Row]) -> tuple[Row, ...]:
        judge = await self._free.get()
        try:
            what = f"verdicts on question {group[0].question_id}"
            verdicts = await judge.ask(VerifierActor.judge, self._deadlines.judge, what, stored(group[0].ref, Group))
        finally:
            self._free.put_nowait(judge)
        return tuple(replace(row, verdict=verdicts[row.index]) for row in group)

    def kill(self) -> None:
        for judge in self.judges:
            judge.kill()
