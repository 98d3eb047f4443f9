"""The experience pool: pairs, abstraction and replay, with tokens from whichever engine it is lent.

Consumes the rows of a judged group, produces rows of drafts, then of replays. A call waits for its own requests in the
engine's continuous batch and for nothing else.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import ray

from mel_ray.actors.handles import SIGN_OF_LIFE, Handle, stored
from mel_ray.actors.incidents import Incidents
from mel_ray.actors.members import Members
from mel_ray.actors.placement import Placement, has_node, options_of
from mel_ray.actors.process import redirect_output, runtime_env
from mel_ray.config.cluster import DeadlineConfig
from mel_ray.config.plan import PoolPlan
from mel_ray.config.schema import Config, MelConfig, ModelConfig
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.model_folder import on_this_node
from mel_ray.mel.pairing import select_pairs
from mel_ray.mel.registry import PAIR_CHOICES
from mel_ray.mel.writer import Sample, Writer
from mel_ray.records.experience import Draft
from mel_ray.records.incident import SURVIVORS, IncidentKind, LostActor, Poison
from mel_ray.records.ports import Engine, Lender, Sampler, Turn
from mel_ray.records.row import Ref, Row, RowKind, correct, incorrect, row_of_draft, rows_of_group
from mel_ray.records.trajectory import Group, Prompt, Sampling, derive_seed

Drafts = tuple[Draft, ...]
T = TypeVar("T")


class ExperienceActor:
    """Writes meta-experiences with the policy's own tokens and puts them to the test."""

    def __init__(
        self, mel: MelConfig, model: ModelConfig, folder: str, run_seed: int, seconds: float, log: Path | None
    ) -> None:
        redirect_output(log)
        self._mel, self._run_seed, self._seconds = mel, run_seed, seconds
        tokenizer = ChatTokenizer(str(on_this_node(Path(folder))), model)
        self._writer = Writer(mel, tokenizer, model.max_context, run_seed)

    def ready(self) -> None:
        return None

    async def abstract(
        self, group: Group, judged: Sequence[Row], step: int, engine: Handle[Sampler]
    ) -> tuple[Drafts, tuple[Row, ...]]:
        seed = derive_seed(self._run_seed, step, group.prompt.question_id, "pairs")
        choice = PAIR_CHOICES[self._mel.pair_choice]
        pairs = select_pairs(
            group.trajectories, correct(judged), incorrect(judged), self._mel.pairs_per_group, seed, choice
        )
        sample = self._sampler(engine)
        written = (self._writer.draft(group, pair, number, step, sample) for number, pair in enumerate(pairs))
        drafts = tuple(await asyncio.gather(*written))
        return drafts, tuple(row_of_draft(draft, index) for index, draft in enumerate(drafts))

    async def replay(
        self, drafts: Drafts, index: int, step: int, engine: Handle[Sampler], others: Drafts = (), other: int = 0
    ) -> tuple[Group, tuple[Row, ...]]:
        """`others[other]`: a draft about another question, where `mel.lesson` asks for one."""
        shown = others[other] if others else None
        group = await self._writer.replay(drafts[index], index, step, self._sampler(engine), shown)
        return group, rows_of_group(group, RowKind.REPLAY)

    async def recall(
        self, group: Group, lessons: Drafts, index: int, step: int, engine: Handle[Sampler]
    ) -> tuple[Group | None, tuple[Row, ...]]:
        found = await self._writer.recall(group.prompt.question, lessons[index], step, self._sampler(engine))
        return found, rows_of_group(found, RowKind.REPLAY) if found else ()

    def _sampler(self, engine: Handle[Sampler]) -> Sample:
        async def sample(prompt: Prompt, sampling: Sampling) -> Group:
            ref, _ = await engine.ask_stored(Sampler.generate, self._seconds, "", prompt, sampling)
            return await ref  # type: ignore[misc]

        return sample


class Author:
    """A handle to one experience actor, with the deadline of every call."""

    def __init__(self, handle: Handle[ExperienceActor], deadlines: DeadlineConfig) -> None:
        self.handle, self._deadlines = handle, deadlines

    @property
    def name(self) -> str:
        return self.handle.name

    async def ready(self) -> None:
        await self.handle.ask(ExperienceActor.ready, self._deadlines.start, "start")

    async def ping(self, seconds: float) -> None:
        await self.handle.ask(ExperienceActor.ready, seconds, SIGN_OF_LIFE)

    def kill(self) -> None:
        self.handle.kill()


class ExperiencePool:
    """The experience actors, and the engines they are lent: their own, or the rollout pool's."""

    def __init__(
        self, plan: PoolPlan, config: Config, folder: Path, engines: Lender, logs: Path | None,
        placement: Placement | None = None, incidents: Incidents | None = None,
    ) -> None:  # fmt: skip
        self._engines, self._mel = engines, config.mel
        self._deadlines: DeadlineConfig = config.cluster.deadlines
        log = logs / "experience.log" if logs else None
        environment = runtime_env(threads=plan.threads)
        given = config.mel, config.model, str(folder), config.run.seed, self._deadlines.generate, log

        def start(number: int) -> Author:
            options = options_of(plan, number, placement)
            actor = ray.remote(ExperienceActor).options(max_concurrency=10_000, runtime_env=environment, **options)
            return Author(Handle(f"{plan.name}-{number}", actor.remote(*given), log), self._deadlines)

        is_there = partial(has_node, plan, placement=placement)
        self.members = Members(
            plan.name, plan.actors, start, incidents, has_node=is_there, patience=config.cluster.deadlines.start
        )

    async def ready(self) -> None:
        await self.members.ready()

    async def _on_author(self, sequences: int, ask: Callable[[Author], Awaitable[T]]) -> T:
        """What `ask` gives with an author. It is asked again, once, where that author is lost.

        Raises:
            Poison: two authors did not survive it.
            LostActor: the author lost its engine.
        """
        lost_authors, reason = 0, ""
        while lost_authors < SURVIVORS:
            author = await self.members.next()
            if lost_authors and not await self.members.is_alive(author, self._deadlines.hang):
                continue
            try:
                return await ask(author)
            except LostActor as lost:
                if lost.who != author.name:
                    raise
                self.members.replace(author, lost)
                lost_authors, reason = lost_authors + 1, str(lost)
                if lost_authors < SURVIVORS:
                    self.members.incidents.ask_again(sequences)
        raise Poison(reason)

    async def abstract(self, judged: Sequence[Row], step: int) -> tuple[Row, ...]:
        """M ~ pi(. | I, x, y+, y-) for each selected pair (MEL Eqs. 2-5), parsed and checked for leaks."""
        group, sequences = stored(judged[0].ref, Group), self._mel.pairs_per_group
        what = f"abstraction of question {judged[0].question_id}"

        def ask(engine: Engine) -> Awaitable[tuple[Ref, tuple[Row, ...]]]:
            def write(author: Author) -> Awaitable[tuple[Ref, tuple[Row, ...]]]:
                return author.handle.ask_stored(
                    ExperienceActor.abstract, self._deadlines.generate, f"{what} on {engine.name}", group, judged, step,
                    engine.sampler,
                )  # fmt: skip

            return self._on_author(sequences, write)

        ref, rows = await self._told(what, self._engines.on_engine(sequences, Turn.STARTED, ask))
        return tuple(replace(row, ref=ref) for row in rows)

    async def replay(self, draft: Row, step: int, other: Row | None = None) -> tuple[Row, ...]:
        """y_val ~ pi(. | x, M): the question again, with M in the prompt (MEL Eq. 6)."""
        drafts: Drafts = stored(draft.ref, tuple)
        others = () if other is None else (stored(other.ref, tuple), other.index)
        what = f"replay of question {draft.question_id}"

        def ask(engine: Engine) -> Awaitable[tuple[Ref, tuple[Row, ...]]]:
            def write(author: Author) -> Awaitable[tuple[Ref, tuple[Row, ...]]]:
                return author.handle.ask_stored(
                    ExperienceActor.replay, self._deadlines.generate, f"{what} on {engine.name}", drafts, draft.index,
                    step, engine.sampler, *others,
                )  # fmt: skip

            return self._on_author(self._mel.replays, write)

        ref, rows = await self._told(what, self._engines.on_engine(self._mel.replays, Turn.STARTED, ask))
        return tuple(replace(row, ref=ref) for row in rows)

    async def recall(self, judged: Sequence[Row], lesson: Row, step: int) -> tuple[Row, ...]:
        """y ~ pi(. | x, M): the question with a lesson of another one in the prompt; nothing where that is too long."""
        group, lessons = stored(judged[0].ref, Group), stored(lesson.ref, tuple)
        what = f"recall for question {judged[0].question_id}"

        def ask(engine: Engine) -> Awaitable[tuple[Ref, tuple[Row, ...]]]:
            def write(author: Author) -> Awaitable[tuple[Ref, tuple[Row, ...]]]:
                return author.handle.ask_stored(
                    ExperienceActor.recall, self._deadlines.generate, f"{what} on {engine.name}", group, lessons,
                    lesson.index, step, engine.sampler,
                )  # fmt: skip

            return self._on_author(self._mel.replays, write)

        ref, rows = await self._told(what, self._engines.on_engine(self._mel.replays, Turn.STARTED, ask))
        return tuple(replace(row, ref=ref) for row in rows)

    async def _told(self, what: str, answer: Awaitable[T]) -> T:
        """The answer; of one that no actor survives, people are told."""
        try:
            return await answer
        except Poison as poison:
            text = f"Two actors were lost over it, and it is left out. {poison}"
            self.members.incidents.tell(IncidentKind.QUARANTINED, what, text)
            raise

    def kill(self) -> None:
        self.members.kill()
