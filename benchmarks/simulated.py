"""A whole system in virtual time: the real driver and engine queue over pools that only let time pass.

What a sample is like (its length, whether it is right) follows from its seed alone, as with real engines, so it does
not depend on timing. Rows carry the versions of the weights that sampled them.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.simulated_engines import EngineRates, SimulatedEngine, SimulatedPool, Spans
from mel_ray.config.schema import Config
from mel_ray.data.prompts import PromptStream
from mel_ray.driver.batches import Asked, Batches
from mel_ray.driver.buffer import Buffer
from mel_ray.driver.explorer import Explorer
from mel_ray.driver.learner import Learner
from mel_ray.driver.loop import Loop
from mel_ray.driver.order import AsItComes, Order
from mel_ray.driver.state import RunState
from mel_ray.mel.book import Book
from mel_ray.mel.memory import Memory
from mel_ray.policy.batch import rows_in
from mel_ray.records.experience import DraftState
from mel_ray.records.ports import Archive, Turn
from mel_ray.records.question import Question, Truth
from mel_ray.records.reports import DeviceFacts, UpdateReport
from mel_ray.records.row import Ref, Row, RowKind, correct, incorrect
from mel_ray.records.step import OptimizerStep, Shards, TrainSettings
from mel_ray.records.trajectory import FinishReason, Floats, Prompt, Sampling, derive_seed
from mel_ray.records.verdict import Outcome, Verdict
from mel_ray.rollout.engine_pool import EnginePool
from mel_ray.rollout.rollout_pool import AllEngines, RolloutPool


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lognormal, in tokens, and cut at `most`; `mean` is that before the cut, `spread` of the logarithm."""

    mean: float
    most: int
    spread: float = 1.2

    def draw(self, seed: int) -> int:
        drawn = Random(seed).lognormvariate(math.log(self.mean) - self.spread**2 / 2, self.spread)
        return max(1, min(self.most, round(drawn)))


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked and answered; a question's share of right answers is uniform in [0, 1]."""

    answers: Lengths  # also of replays
    drafts: Lengths
    prompt_tokens: int = 200
    parsed: float = 0.9  # share of the drafts
    replayed: float = 0.55  # share of the replays that are right


@dataclass(frozen=True, slots=True)
class Rates:
    """In seconds."""

    engine: EngineRates
    judge: float = 0.05  # a group
    train: float = 1e-4  # a token of a row, on one rank
    update: float = 0.5  # an optimizer step, however small
    publish: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """What a reference leads to: the sequences of a group, or the drafts about one."""

    kind: RowKind
    question_id: str
    step: int
    seeds: tuple[int, ...]
    spans: tuple[Spans, ...]


class Store:
    """References are the records themselves."""

    async def get(self, refs: Sequence[Ref]) -> list[Any]:
        return list(refs)

    def put(self, record: Any) -> Ref:
        return record


class World:
    """Rows of what the engines sampled, and what is true of them."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.sampled: list[Sampled] | None = []  # None: it is not kept
        self.cpu_seconds = 0.0  # that the model itself took
        self._skills: dict[str, float] = {}

    def rows(
        self, kind: RowKind, question_id: str, seeds: tuple[int, ...], spans: Sequence[Spans], prompts: Sequence[int],
        lengths: Lengths, step: int = 0,
    ) -> tuple[Row, ...]:  # fmt: skip
        began = time.process_time()
        ref = Sampled(kind, question_id, step, seeds, tuple(spans))
        if self.sampled is not None:
            self.sampled.append(ref)
        rows = []
        for index, (seed, own, prompt_tokens) in enumerate(zip(seeds, spans, prompts, strict=True)):
            tokens = sum(count for count, _ in own)
            finish = FinishReason.LENGTH if tokens == lengths.most else FinishReason.STOP
            versions = own[0][1], own[-1][1]
            row = Row(kind, index, question_id, prompt_tokens, tokens, tokens, finish, versions, str(seed), ref)
            rows.append(row)
        self.cpu_seconds += time.process_time() - began
        return tuple(rows)

    def judged(self, group: Sequence[Row]) -> tuple[Row, ...]:
        began = time.process_time()
        verdicts = [self._verdict(row) for row in group]
        self.cpu_seconds += time.process_time() - began
        return tuple(replace(row, verdict=verdict) for row, verdict in zip(group, verdicts, strict=True))

    def drawn(self, lengths: Lengths, seeds: Sequence[int]) -> tuple[int, ...]:
        began = time.process_time()
        drawn = tuple(map(lengths.draw, seeds))
        self.cpu_seconds += time.process_time() - began
        return drawn

    def _verdict(self, row: Row) -> Verdict:
        ref = row.ref
        assert isinstance(ref, Sampled)
        share = self.workload.replayed if row.kind is RowKind.REPLAY else self._skill(row.question_id)
        is_right = _chance(ref.seeds[row.index], "right") < share
        return Verdict(Outcome.CORRECT if is_right else Outcome.WRONG)

    def _skill(self, question_id: str) -> float:
        if question_id not in self._skills:
            self._skills[question_id] = _chance(0, f"skill {question_id}")
        return self._skills[question_id]


def _chance(seed: int, what: str) -> float:
    return derive_seed(seed, what) / 2**31


class Sampler:
    """A simulated engine as RolloutPool sees it."""

    def __init__(self, engine: SimulatedEngine, world: World) -> None:
        self._engine, self._world = engine, world

    async def ask_stored(
        self, method: Any, seconds: float, what: str, prompt: Prompt, sampling: Sampling
    ) -> tuple[Ref, tuple[Row, ...]]:
        drawn = self._world.drawn(self._world.workload.answers, sampling.seeds)
        prompt_tokens = len(prompt.token_ids)
        spans = await self._engine.sample(prompt_tokens, drawn)
        prompts = [prompt_tokens] * len(drawn)
        answers = self._world.workload.answers
        rows = self._world.rows(RowKind.ATTEMPT, prompt.question_id, sampling.seeds, spans, prompts, answers)
        return rows[0].ref, rows


class SimulatedRewards:
    def __init__(self, world: World, rates: Rates) -> None:
        self._world, self._rates = world, rates

    async def judge(self, group: Sequence[Row]) -> tuple[Row, ...]:
        await asyncio.sleep(self._rates.judge)
        return self._world.judged(group)


class SimulatedExperience:
    """Leases engines as ExperiencePool does."""

    def __init__(self, world: World, engines: EnginePool, config: Config) -> None:
        self._world, self._engines, self._config = world, engines, config

    async def abstract(self, judged: Sequence[Row], step: int) -> tuple[Row, ...]:
        mel, world, first = self._config.mel, self._world, judged[0]
        right, wrong = correct(judged), incorrect(judged)
        pairs = range(min(mel.pairs_per_group, len(right) * len(wrong)))
        seeds = tuple(derive_seed(self._config.run.seed, step, first.question_id, "abstract", n) for n in pairs)
        prompts = [
            first.prompt_tokens + judged[right[n % len(right)]].tokens + judged[wrong[n % len(wrong)]].tokens
            for n in pairs
        ]
        lengths = world.workload.drafts
        async with self._engines.lease(mel.pairs_per_group, Turn.STARTED) as engine:
            samples = (
                engine.sample(prompt, (lengths.draw(seed),)) for prompt, seed in zip(prompts, seeds, strict=True)
            )
            spans = [own[0] for own in await asyncio.gather(*samples)]
        rows = world.rows(RowKind.DRAFT, first.question_id, seeds, spans, prompts, lengths, step)
        return tuple(self._written(row, seed) for row, seed in zip(rows, seeds, strict=True))

    def _written(self, row: Row, seed: int) -> Row:
        if row.finish_reason is FinishReason.LENGTH:
            state = DraftState.TRUNCATED
        else:
            is_parsed = _chance(seed, "parsed") < self._world.workload.parsed
            state = DraftState.PARSED if is_parsed else DraftState.PARSE_FAILURE
        return replace(row, state=state, fate=state.fate, heuristics=(0, row.tokens))

    async def replay(self, draft: Row, step: int, other: Row | None = None) -> tuple[Row, ...]:
        mel, world, run_seed = self._config.mel, self._world, self._config.run.seed
        seeds = tuple(
            derive_seed(run_seed, step, draft.question_id, "replay", draft.index, k) for k in range(mel.replays)
        )
        lengths = world.workload.answers
        prompt = world.workload.prompt_tokens + draft.tokens
        async with self._engines.lease(mel.replays, Turn.STARTED) as engine:
            spans = await engine.sample(prompt, world.drawn(lengths, seeds))
        return world.rows(RowKind.REPLAY, draft.question_id, seeds, spans, [prompt] * len(seeds), lengths, step)


class SimulatedPolicy:
    """`updates` holds the optimizer steps of every update; `busy` counts seconds, `trained` the tokens of rows with a
    weight, prompts included."""

    def __init__(self, rates: Rates, ranks: int) -> None:
        self._rates, self.ranks, self.shards, self.facts = rates, ranks, ranks, DeviceFacts()
        self.updates: list[tuple[OptimizerStep, ...]] | None = []  # None: they are not kept
        self.settings: list[TrainSettings] = []  # of every update, those without steps included
        self.busy, self.trained = 0.0, 0

    async def train(self, steps: Sequence[OptimizerStep], settings: TrainSettings) -> UpdateReport:
        self.settings.append(settings)
        if not steps:
            return UpdateReport({}, 0)
        if self.updates is not None:
            self.updates.append(tuple(steps))
        self.trained += sum(row.length for step in steps for row in rows_in(step.shards) if row.has_weight)
        once = sum(self._seconds(step.shards) for step in steps)
        await self._pass(self._rates.update * len(steps) + settings.epochs * once)
        return UpdateReport({}, len(steps), moved=True)

    async def score(self, shards: Shards, of_reference: bool = False) -> list[list[list[Floats]]]:
        await self._pass(self._seconds(shards) / 3)  # forward alone
        return [
            [[np.full(row.trained_tokens, -1.0, dtype=np.float32) for row in microbatch] for microbatch in rank]
            for rank in shards
        ]

    async def save(self, folder: Path) -> None:
        return None

    async def export(self, folder: Path) -> None:
        return None

    def _seconds(self, shards: Shards) -> float:
        return self._rates.train * max(sum(row.length for row in rows_in((rank,))) for rank in shards)

    async def _pass(self, seconds: float) -> None:
        self.busy += seconds
        await asyncio.sleep(seconds)


class SimulatedPublisher:
    def __init__(self, pool: SimulatedPool, rates: Rates, config: Config) -> None:
        self._pool, self._rates, self._keep_kv = pool, rates, config.driver.keep_kv
        self.moving = asyncio.Lock()

    async def publish(self, version: int, keep_kv: bool = False) -> None:
        await asyncio.sleep(self._rates.publish)
        for engine in self._pool.engines:
            engine.load(version, self._keep_kv)


class Rows:
    """An archive that keeps the rows of every step."""

    def __init__(self) -> None:
        self.steps: dict[int, list[Row]] = {}

    async def record(self, step: int, rows: Sequence[Row], version: int = 0) -> None:
        self.steps[step] = list(rows)


@dataclass(frozen=True)
class Simulation:
    """Builds a loop within a running VirtualLoop; replace a part before `loop` is asked for to change it."""

    config: Config
    rates: Rates
    workload: Workload
    questions: int
    explorer_type: type[Explorer] = Explorer
    state: RunState | None = None
    waiting: Sequence[Asked] = ()
    order: Order | None = None
    archive: Archive | None = None

    @cached_property
    def world(self) -> World:
        return World(self.workload)

    @cached_property
    def pool(self) -> SimulatedPool:
        pool = SimulatedPool(self.config, self.rates.engine)
        for engine in pool.engines:
            engine.handle = Sampler(engine, self.world)
        return pool

    @cached_property
    def rollout(self) -> RolloutPool:
        return RolloutPool(self.pool, math.inf)

    @cached_property
    def rewards(self) -> SimulatedRewards:
        return SimulatedRewards(self.world, self.rates)

    @cached_property
    def experience(self) -> SimulatedExperience:
        return SimulatedExperience(self.world, self.pool, self.config)

    @cached_property
    def policy(self) -> SimulatedPolicy:
        return SimulatedPolicy(self.rates, self.config.cluster.policy.ranks)

    @cached_property
    def data(self) -> PromptStream:
        tokens = np.ones(self.workload.prompt_tokens, dtype=np.int32)
        tokens.flags.writeable = False
        questions = (Question(f"Question {n}", Truth("1"), question_id=f"q{n}") for n in range(self.questions))
        position = self.state.position if self.state else 0
        return PromptStream([Prompt(one, tokens) for one in questions], self.config.run.seed, position)

    @cached_property
    def loop(self) -> Loop:
        config, memory = self.config, self.config.mel.memory
        order = self.order or AsItComes()
        explorer = self.explorer_type(config, self.rollout, self.rewards, self.experience, order)
        batches = Batches(explorer.explore, self.data, config, self.waiting)
        buffer = Buffer(batches, config.driver.capacity, config.run.steps, order.closed)
        learner = Learner(
            config,
            self.policy,
            Memory(memory.size, memory.max_age, 0, Store()),
            self.archive or Rows(),
            Book(config.mel, Store()),
        )
        publisher = SimulatedPublisher(self.pool, self.rates, config)
        state = self.state or RunState()
        engines = AllEngines([self.pool])
        return Loop(config, state, self.data, buffer, learner, publisher, engines, order)
