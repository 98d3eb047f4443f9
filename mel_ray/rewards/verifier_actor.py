"""The verifier pool: judges whole groups in child processes that a deadline kills and replaces.

Consumes group refs, produces verdicts; a call waits for its own group's judgements, one child per actor.
"""

from pathlib import Path
from typing import Any

import ray

from mel_ray.config.schema import ClusterConfig, RewardConfig
from mel_ray.actors.process import redirect_output, runtime_env
from mel_ray.actors.waiting import settle
from mel_ray.records.exploration import GroupTicket
from mel_ray.records.trajectory import Group
from mel_ray.records.verdict import GroupVerdict
from mel_ray.rewards.verifier import Verifier, VerifierSettings


class VerifierActor:
    """One killable judging process and the actor that guards it."""

    def __init__(self, settings: VerifierSettings, log: Path | None) -> None:
        redirect_output(log)
        self._verifier = Verifier(settings)

    def judge(self, group: Group) -> GroupVerdict:
        """V(y_i, y*) for every trajectory (MEL Eq. 1)."""
        prompt, texts = group.prompt, [trajectory.text for trajectory in group.trajectories]
        return GroupVerdict(self._verifier.judge_all(texts, prompt.answer, prompt.question, prompt.tolerance))

    def ready(self) -> int:
        self._verifier.self_test()
        return self._verifier.replaced


class VerifierPool:
    """Hands each group to the verifier with the fewest groups waiting."""

    def __init__(self, cluster: ClusterConfig, reward: RewardConfig, logs: Path | None) -> None:
        settings = cluster.verifier
        judging = VerifierSettings(settings.deadline, reward.extract, reward.function)
        self._seconds, self._start_seconds = cluster.deadlines.judge, cluster.deadlines.start
        self._log = logs / "verifier.log" if logs else None
        actor = ray.remote(VerifierActor).options(num_cpus=settings.cpus, runtime_env=runtime_env())
        self.actors: list[Any] = [actor.remote(judging, self._log) for _ in range(settings.actors)]
        self._waiting = [0] * settings.actors

    async def ready(self) -> None:
        refs = [actor.ready.remote() for actor in self.actors]
        await settle(refs, "verifier pool", self._start_seconds, self._log)

    async def judge(self, group: GroupTicket) -> GroupVerdict:
        index = min(range(len(self.actors)), key=self._waiting.__getitem__)
        self._waiting[index] += 1
        try:
            label = f"verifier {index} on question {group.facts.question_id}"
            return await settle(self.actors[index].judge.remote(group.ref), label, self._seconds, self._log)
        finally:
            self._waiting[index] -= 1
