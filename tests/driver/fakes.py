"""In-memory pools that implement the ports of driver/ports.py, and record what was asked of them."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from mel_ray.records import DraftState, GroupVerdict, Outcome, Prompt, Sampling, UpdateReport, Verdict
from mel_ray.records.experience import ContrastivePair, DraftFacts
from mel_ray.records.exploration import DraftTicket, Exploration, GroupTicket, ReplayTicket
from mel_ray.records.trajectory import GroupFacts
from mel_ray.records.update import KlEstimator, KlFacts, Shards, Update


class World:
    """What happens, in order; `outcomes` maps a question id to the letters of its group's verdicts."""

    def __init__(self, outcomes: dict[str, str], replay: str = "c", delays: dict[str, float] | None = None) -> None:
        self.outcomes, self.replay_outcome, self.delays = outcomes, replay, delays or {}
        self.events: list[tuple[str, str]] = []

    def note(self, what: str, who: str) -> None:
        self.events.append((what, who))


NAMES = {"c": Outcome.CORRECT, "w": Outcome.WRONG, "t": Outcome.TIMEOUT}


class FakeRollout:
    def __init__(self, world: World) -> None:
        self.world, self.seeds = world, []

    async def generate(self, prompt: Prompt, sampling: Sampling) -> GroupTicket:
        self.seeds.append(sampling.seeds)
        await asyncio.sleep(self.world.delays.get(prompt.question_id, 0))
        self.world.note("generated", prompt.question_id)
        facts = GroupFacts(prompt.question_id, 3, (4,) * sampling.count, ("stop",) * sampling.count, 0)
        return GroupTicket(f"group-{prompt.question_id}", facts)


class FakeVerifier:
    def __init__(self, world: World) -> None:
        self.world = world

    async def judge(self, group: GroupTicket) -> GroupVerdict:
        is_replay = str(group.ref).startswith("replay")
        letters = self.world.replay_outcome if is_replay else self.world.outcomes[group.facts.question_id]
        self.world.note("judged", str(group.ref))
        count = len(group.facts.lengths)
        return GroupVerdict(tuple(Verdict(NAMES[letter]) for letter in (letters * count)[:count]))


class FakeExperience:
    def __init__(self, world: World, state: DraftState = DraftState.PARSED) -> None:
        self.world, self.state = world, state

    async def abstract(self, group: GroupTicket, verdict: GroupVerdict, step: int) -> Sequence[DraftTicket]:
        self.world.note("abstracted", group.facts.question_id)
        pair = ContrastivePair(verdict.correct[0], verdict.incorrect[0])
        return (DraftTicket(f"drafts-{group.facts.question_id}", 0, DraftFacts(self.state, 9, 5, pair)),)

    async def replay(self, draft: DraftTicket, step: int) -> ReplayTicket:
        self.world.note("replayed", str(draft.ref))
        return ReplayTicket(draft, GroupTicket(f"replay-{draft.ref}", GroupFacts("q", 5, (4,), ("stop",), 0)))


class FakePolicy:
    def __init__(self, world: World, ranks: int = 2) -> None:
        self.world, self.ranks, self.updates, self.saved = world, ranks, [], []

    async def train(self, update: Update) -> UpdateReport:
        if not update.steps:
            return UpdateReport({"batch/optimizer_steps": 0.0}, 0)
        self.updates.append(update)
        self.world.note("trained", str(len(update.steps)))
        return UpdateReport({"loss/policy": 0.0}, len(update.steps), moved=True)

    async def divergence(self, shards: Shards, estimator: KlEstimator) -> list[list[list[KlFacts]]]:
        """KL 1 for the first trajectory of every group, none for the others."""
        self.world.note("measured", str(len({(s.ref, s.index) for row in shards for m in row for s in m})))
        kl = [float(index == 0) for index in range(64)]
        return [[[KlFacts(kl[s.index], 0.0, 0.0) for s in m] for m in row] for row in shards]

    async def publish(self, version: int) -> None:
        self.world.note("published", str(version))

    async def save(self, folder: Path) -> None:
        self.saved.append(folder)
        (folder / "shard").write_text("weights")

    async def export(self, folder: Path) -> None:
        self.world.note("exported", str(folder))


class FakeEngines:
    async def busy_share(self) -> float:
        return 0.5


class FakeArchive:
    def __init__(self, world: World) -> None:
        self.world, self.explored = world, []

    async def record(self, step: int, explored: Sequence[Exploration]) -> None:
        self.explored.append(list(explored))
        self.world.note("recorded", str(step))


class FakeSink:
    def __init__(self) -> None:
        self.steps, self.evaluations = [], []

    def step(self, report) -> None:
        self.steps.append(report)

    def evaluation(self, report) -> None:
        self.evaluations.append(report)

    def close(self, status: str) -> None:
        return None


class FakeJournal:
    def __init__(self, known: dict | None = None) -> None:
        self.known, self.added = known or {}, []

    def find(self, question_id: str, temperature: float, count: int):
        return self.known.get((question_id, temperature))

    async def add(self, group, verdict, temperature: float) -> None:
        self.added.append((group.facts.question_id, temperature))

    async def close(self) -> None:
        return None


class FakeJournals:
    def open(self, benchmark: str, step: int) -> FakeJournal:
        return FakeJournal()
