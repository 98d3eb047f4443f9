"""In-memory pools that implement the ports of records/ports.py and record what was asked of them."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mel_ray.config.schema import Config
from mel_ray.data.prompts import PromptStream
from mel_ray.driver.batches import Batches
from mel_ray.driver.buffer import Buffer
from mel_ray.driver.explorer import Explorer
from mel_ray.driver.learner import Learner
from mel_ray.driver.loop import Loop
from mel_ray.driver.state import RunState
from mel_ray.mel.book import Book
from mel_ray.mel.memory import Memory
from mel_ray.policy.batch import rows_in
from mel_ray.policy.sequences import train_sequence
from mel_ray.records.experience import DraftState
from mel_ray.records.ports import Turn
from mel_ray.records.reports import DeviceFacts, UpdateReport
from mel_ray.records.row import Explored, Row, RowKind, row_of_draft, rows_of_group
from mel_ray.records.step import OptimizerStep, Shards, TrainSequence, TrainSettings
from mel_ray.records.trajectory import Floats, Group, Prompt, Sampling
from tests.unit.builders import FakeStore, config_of, draft, judged, prompt, trajectory


class World:
    """What happens, in order; `outcomes` maps a question id to the letters of its group's verdicts."""

    def __init__(self, outcomes: dict[str, str], replay: str = "c", delays: dict[str, float] | None = None) -> None:
        self.outcomes, self.replay, self.delays = outcomes, replay, delays or {}
        self.events: list[tuple[str, str]] = []
        self.store = FakeStore()

    def note(self, what: str, who: object) -> None:
        self.events.append((what, str(who)))

    def who(self, what: str) -> list[str]:
        return [who for event, who in self.events if event == what]

    def rows_of(self, group: Group, name: str, kind: RowKind = RowKind.ATTEMPT) -> tuple[Row, ...]:
        ref = self.store.put(group, name)
        return tuple(replace(row, ref=ref) for row in rows_of_group(group, kind))


class FakeRollout:
    """Trajectories of four tokens."""

    def __init__(self, world: World) -> None:
        self.world, self.seeds = world, []

    async def generate(self, prompt: Prompt, sampling: Sampling, turn: Turn = Turn.NEW) -> tuple[Row, ...]:
        self.seeds.append(sampling.seeds)
        await asyncio.sleep(self.world.delays.get(prompt.question_id, 0))
        self.world.note("generated", prompt.question_id)
        group = Group(prompt, tuple(trajectory(4) for _ in sampling.seeds))
        return self.world.rows_of(group, f"group-{prompt.question_id}")


class FakeRewards:
    def __init__(self, world: World) -> None:
        self.world = world

    async def judge(self, group: Sequence[Row]) -> tuple[Row, ...]:
        self.world.note("judged", group[0].ref)
        is_replay = group[0].kind is RowKind.REPLAY
        letters = self.world.replay if is_replay else self.world.outcomes[group[0].question_id]
        return judged(group, (letters * len(group))[: len(group)])


class FakeExperience:
    """One draft per mixed group, of five tokens; one replay per draft, of four."""

    def __init__(self, world: World, state: DraftState = DraftState.PARSED) -> None:
        self.world, self.state = world, state

    async def abstract(self, judged: Sequence[Row], step: int) -> tuple[Row, ...]:
        question_id = judged[0].question_id
        self.world.note("abstracted", question_id)
        written = draft(self.state)
        ref = self.world.store.put((written,), f"drafts-{question_id}")
        return (replace(row_of_draft(written, 0), ref=ref, question_id=question_id),)

    async def replay(self, draft: Row, step: int, other: Row | None = None) -> tuple[Row, ...]:
        self.world.note("replayed", draft.ref if other is None else f"{draft.ref} with {other.ref}")
        group = Group(prompt(question_id=draft.question_id), (trajectory(4),))
        return self.world.rows_of(group, f"replay-{draft.ref}", RowKind.REPLAY)

    async def recall(self, judged: Sequence[Row], lesson: Row, step: int) -> tuple[Row, ...]:
        self.world.note("recalled", f"{lesson.question_id} for {judged[0].question_id}")
        group = Group(prompt(question_id=judged[0].question_id), (trajectory(4),))
        return self.world.rows_of(group, f"recall-{judged[0].question_id}", RowKind.REPLAY)


class FakePolicy:
    """Makes every sequence that it is asked about, as a rank does. Under the current weights every token has a
    logprob of -1; under the reference those of a group's first attempt are a quarter less likely, so that its KL (k1)
    is 1 in all."""

    def __init__(self, world: World, ranks: int = 2) -> None:
        self.world, self.ranks, self.shards, self.facts = world, ranks, ranks, DeviceFacts()
        self.updates: list[tuple[Sequence[OptimizerStep], TrainSettings]] = []
        self.sequences: list[tuple[Row, TrainSequence]] = []  # of all updates
        self.saved: list[Path] = []

    def made(self, row: Row) -> TrainSequence:
        return train_sequence(row, self.world.store.records)

    async def train(self, steps: Sequence[OptimizerStep], settings: TrainSettings) -> UpdateReport:
        if not steps:
            return UpdateReport({"batch/optimizer_steps": 0.0}, 0)
        self.updates.append((steps, settings))
        self.sequences += [(row, self.made(row)) for step in steps for row in rows_in(step.shards)]
        self.world.note("trained", len(steps))
        return UpdateReport({"loss/policy": 0.0}, len(steps), moved=True)

    async def score(self, shards: Shards, of_reference: bool = False) -> list[list[list[Floats]]]:
        asked = {(row.ref, row.index) for row in rows_in(shards)}
        self.world.note("reference scored" if of_reference else "scored", len(asked))
        return [[[self._logprobs(row, of_reference) for row in microbatch] for microbatch in rank] for rank in shards]

    def _logprobs(self, row: Row, of_reference: bool) -> Floats:
        is_less_likely = of_reference and row.kind is RowKind.ATTEMPT and row.index == 0
        return np.full(len(self.made(row).pg_weight), -1.25 if is_less_likely else -1.0, dtype=np.float32)

    async def rest(self) -> None:
        self.world.note("resting", "")

    async def snapshot(self, folder: Path) -> None:
        self.saved.append(folder)

    async def write(self) -> None:
        (self.saved[-1] / "shard").write_text("weights")

    async def export(self, folder: Path) -> None:
        self.world.note("exported", folder)


class FakePublisher:
    def __init__(self, world: World) -> None:
        self.world, self.moving = world, asyncio.Lock()

    async def publish(self, version: int, keep_kv: bool = False) -> None:
        self.world.note("published", version)


class FakeEngines:
    engines = ()

    def __init__(self, world: World | None = None) -> None:
        self.world = world or World({})

    async def sleep(self) -> None:
        self.world.note("asleep", "")

    async def wake(self, part: str) -> None:
        self.world.note("awake", part)

    async def drain(self) -> None:
        return None

    async def pause(self) -> None:
        return None

    async def resume(self) -> None:
        return None

    async def measures(self) -> dict[str, float]:
        return {"engine/busy_share": 0.5}

    def replace(self, engine, why) -> None:
        raise AssertionError("nothing broke")


class FakeArchive:
    def __init__(self, world: World) -> None:
        self.world, self.rows = world, []

    async def record(self, step: int, rows: Sequence[Row], version: int = 0) -> None:
        self.rows.append(list(rows))
        self.world.note("recorded", step)


class FakeSink:
    def __init__(self) -> None:
        self.steps, self.evaluations = [], []

    def step(self, report) -> None:
        self.steps.append(report)

    def evaluation(self, report) -> None:
        self.evaluations.append(report)

    def incident(self, incident) -> None:
        return None

    def close(self, status: str) -> None:
        return None


class FakeJournal:
    def __init__(self, known: dict | None = None) -> None:
        self.known, self.added, self.is_closed = known or {}, [], False

    def find(self, question_id: str, temperature: float, count: int):
        return self.known.get((question_id, temperature))

    async def add(self, judged: Sequence[Row], temperature: float) -> None:
        self.added.append((judged[0].question_id, temperature))

    async def close(self) -> None:
        self.is_closed = True


class FakeJournals:
    def __init__(self) -> None:
        self.opened: list[FakeJournal] = []

    def open(self, benchmark: str, step: int) -> FakeJournal:
        self.opened.append(FakeJournal())
        return self.opened[-1]


@dataclass
class System:
    """A driver over fakes."""

    cfg: Config
    world: World
    loop: Loop
    explorer: Explorer
    learner: Learner
    policy: FakePolicy
    rollout: FakeRollout
    archive: FakeArchive

    @property
    def step(self) -> Callable:
        return self.loop.step

    async def explored(self, step: int) -> list[Explored]:
        """The questions of a step, nothing else."""
        return await self.loop.buffer.take(step)

    def trained(self, update: int | None = None) -> list[Row]:
        """The rows with a weight, of one update or of all."""
        updates = self.policy.updates if update is None else [self.policy.updates[update]]
        return [row for steps, _ in updates for step in steps for row in rows_in(step.shards) if row.has_weight]


def make(
    world: World,
    *overrides: str,
    state: DraftState = DraftState.PARSED,
    run_state: RunState | None = None,
    data_question: str = "1 + 1?",
) -> System:
    """Over all questions of the world at once, unless the overrides say otherwise."""
    questions = [prompt(data_question, question_id=name) for name in sorted(world.outcomes)]
    group_size = len(next(iter(world.outcomes.values())))
    sizes = [f"rollout.prompts_per_step={len(questions)}", f"rollout.group_size={group_size}"]
    cfg = config_of(*sizes, *overrides)
    run_state = run_state or RunState()
    data = PromptStream(questions, 0, run_state.position)
    rollout, policy, archive = FakeRollout(world), FakePolicy(world), FakeArchive(world)
    experience = FakeExperience(world, state)
    book = Book(cfg.mel, world.store)
    explorer = Explorer(cfg, rollout, FakeRewards(world), experience, quarantined=run_state.quarantined, book=book)
    batches = Batches(explorer.explore, data, cfg, state=run_state)
    buffer = Buffer(batches, cfg.driver.capacity, cfg.run.steps)
    options = cfg.mel.memory
    learner = Learner(cfg, policy, Memory(options.size, options.max_age, 0, world.store), archive, book)
    loop = Loop(cfg, run_state, data, buffer, learner, FakePublisher(world), FakeEngines(world))
    return System(cfg, world, loop, explorer, learner, policy, rollout, archive)
