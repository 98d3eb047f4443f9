"""The rewards pool: judges whole groups in child processes that a deadline kills and replaces.

Consumes the rows of a group, produces them with verdicts. An actor is handed one group at a time, so a call's deadline
counts its own judgements; the rest waits in the pool, where no deadline counts.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import ray

from mel_ray.actors.handles import SIGN_OF_LIFE, WATCH, WATCHED, Handle, stored
from mel_ray.actors.incidents import Incidents
from mel_ray.actors.members import Members
from mel_ray.actors.placement import Placement, has_node, options_of
from mel_ray.actors.process import redirect_output, runtime_env
from mel_ray.config.cluster import DeadlineConfig
from mel_ray.config.plan import PoolPlan
from mel_ray.config.schema import ClusterConfig, RewardConfig
from mel_ray.records.incident import SURVIVORS, IncidentKind, LostActor
from mel_ray.records.row import Row
from mel_ray.records.trajectory import Group
from mel_ray.records.verdict import Outcome, Verdict
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

    @ray.method(concurrency_group=WATCH)
    def ping(self) -> None:
        return None


class Judge:
    """A handle to one verifier actor, with the deadline of every call."""

    def __init__(self, handle: Handle[VerifierActor], deadlines: DeadlineConfig) -> None:
        self._handle, self._deadlines = handle, deadlines

    @property
    def name(self) -> str:
        return self._handle.name

    async def ready(self) -> None:
        await self._handle.ask(VerifierActor.ready, self._deadlines.start, "start")

    async def ping(self, seconds: float) -> None:
        await self._handle.ask(VerifierActor.ping, seconds, SIGN_OF_LIFE)

    async def judge(self, group: Sequence[Row]) -> tuple[Verdict, ...]:
        what = f"verdicts on question {group[0].question_id}"
        return await self._handle.ask(VerifierActor.judge, self._deadlines.judge, what, stored(group[0].ref, Group))

    def kill(self) -> None:
        self._handle.kill()


class VerifierPool:
    """As many judges as the plan says; each group goes to one that is free.

    `max_tokens` is the longest completion in training, which the built-in part `length` measures against.
    """

    def __init__(
        self, plan: PoolPlan, cluster: ClusterConfig, reward: RewardConfig, logs: Path | None, max_tokens: int = 0,
        placement: Placement | None = None, incidents: Incidents | None = None,
    ) -> None:  # fmt: skip
        judging = VerifierSettings(
            cluster.verifier.deadline, reward.extract, reward.function, reward.parts, max_tokens=max_tokens
        )
        log = logs / "verifier.log" if logs else None
        environment = runtime_env(threads=plan.threads)

        def start(index: int) -> Judge:
            options = options_of(plan, index, placement)
            actor = WATCHED(VerifierActor).options(runtime_env=environment, **options)
            return Judge(Handle(f"{plan.name}-{index}", actor.remote(judging, log), log), cluster.deadlines)

        is_there = partial(has_node, plan, placement=placement)
        self.members = Members(plan.name, plan.actors, start, incidents, self._admit, is_there, cluster.deadlines.start)
        self._hang = cluster.deadlines.hang
        self._busy: list[Judge] = []
        self._waiting: deque[asyncio.Future[Judge]] = deque()

    async def ready(self) -> None:
        await self.members.ready()

    async def judge(self, group: Sequence[Row]) -> tuple[Row, ...]:
        """The rows with their verdicts. A group that two judges did not survive counts as errors of the verifier."""
        lost_judges = 0
        while lost_judges < SURVIVORS:
            judge = await self._free_judge()
            try:
                if lost_judges and not await self.members.is_alive(judge, self._hang):
                    continue
                verdicts = await judge.judge(group)
                return tuple(replace(row, verdict=verdicts[row.index]) for row in group)
            except LostActor as lost:
                self.members.replace(judge, lost)
                lost_judges += 1
                if lost_judges < SURVIVORS:
                    self.members.incidents.ask_again(len(group))
            finally:
                self._busy.remove(judge)
                self._admit()
        question = group[0].question_id
        self.members.incidents.tell(IncidentKind.QUARANTINED, f"question {question}", "Two judges died at its answers.")
        died = Verdict(Outcome.ERROR, None, "two judges died at the answers to this question")
        return tuple(replace(row, verdict=died) for row in group)

    async def _free_judge(self) -> Judge:
        waiting: asyncio.Future[Judge] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        self._admit()
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and not waiting.exception():
                self._busy.remove(waiting.result())
                self._admit()
            raise

    def _admit(self) -> None:
        """Hand free judges to those who wait, first come, first served."""
        free = [judge for judge in self.members.healthy if judge not in self._busy]
        while self._waiting and (free or self.members.failure):
            waiting = self._waiting.popleft()
            if waiting.done():
                continue
            if self.members.failure:
                waiting.set_exception(self.members.failure)
            else:
                judge = free.pop(0)
                self._busy.append(judge)
                waiting.set_result(judge)

    def kill(self) -> None:
        self.members.kill()
