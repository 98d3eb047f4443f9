"""Which questions make up a batch, and what was asked and is not yet learned from.

Three ways. Fixed: the next questions of the data. Dynamic sampling: the shortest stretch of the data that holds enough
mixed groups (DAPO, arXiv 2503.14476). Partial: the first questions to be done; the others go on and belong to a later
batch, the last one at the latest. No question is twice in a batch. The first failure cancels all.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Container, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mel_ray.config.schema import Config
from mel_ray.driver.state import RunState
from mel_ray.records.ledger import TrajectoryFate
from mel_ray.records.ports import Data, ObjectStore
from mel_ray.records.row import Explored, Ref, Row, has_signal
from mel_ray.records.stored import StoredRecords
from mel_ray.records.trajectory import Prompt

Explore = Callable[[Prompt, int], Awaitable[Explored]]
FILE = "explored.npz"
KEPT = 32  # batches in the object store since the last checkpoint, in case the policy is lost


@dataclass(slots=True, eq=False)
class Asked:
    """A question that was asked at a step; its seeds follow from that. `batch`: the batch it belongs to, once that is
    known. `done`: how many were explored before it, once it is explored itself."""

    step: int
    prompt: Prompt
    batch: int | None = None
    explored: Explored | None = None
    done: int = -1

    @property
    def is_silent(self) -> bool:
        return self.explored is not None and not has_signal(self.explored)


_STORED = StoredRecords(Asked)


class Batches:
    """Asks questions and gathers them into batches; `asked` holds those that no learner has taken yet, in the order of
    the data."""

    def __init__(
        self, explore: Explore, data: Data, config: Config, asked: Iterable[Asked] = (), state: RunState | None = None
    ) -> None:
        """`state`: where the run is when this begins."""
        self._explore, self._data, self._config, self._state = explore, data, config, state or RunState()
        self.asked = list(asked)
        self._is_dynamic = config.algorithm.dynamic_sampling.enabled
        if config.rollout.partial:
            self._release_unfinished_batches()
        self._saved = set[Asked]()  # those whose exploration the last checkpoint holds
        self._taken = dict[int, list[Asked]]()  # by step, since the last checkpoint, as many as are kept
        self._dropped = self._state.step  # the last step whose batch is not kept
        self._done = max((one.done for one in self.asked), default=-1)
        self._lock = asyncio.Lock()
        self._under_way: dict[Asked, asyncio.Task[None]] = {}  # of partial batches
        self._ended: asyncio.Queue[Asked] = asyncio.Queue()  # of these

    @property
    def turn(self) -> AbstractAsyncContextManager[None]:
        """Held while a batch is gathered: one at a time, where it must be closed before it is known what the next one
        holds."""
        return self._lock if self._config.rollout.partial or self._is_dynamic else nullcontext()

    async def batch(self, step: int) -> list[Asked]:
        """The questions of a step's batch, explored, in the order of the data."""
        if self._config.rollout.partial:
            return await self._first(step)
        if self._is_dynamic:
            return await self._mixed(step)
        return await self._fixed(step)

    def hand_over(self, batch: Sequence[Asked]) -> list[Explored]:
        """The explorations of a batch, which now belong to the learner: those it trains on, then those that dynamic
        sampling threw away, whose attempts carry the fate FILTERED."""
        taken = set(batch)
        self.asked = [one for one in self.asked if one not in taken]
        self._keep(batch)
        explored = [one.explored for one in batch if one.explored is not None]
        if not self._is_dynamic:
            return explored
        return [one for one in explored if has_signal(one)] + [
            _filtered(one) for one in explored if not has_signal(one)
        ]

    def _keep(self, batch: Sequence[Asked]) -> None:
        if batch:
            self._taken[batch[0].batch or 0] = list(batch)
        if len(self._taken) > KEPT:
            self._dropped = min(self._taken)
            del self._taken[self._dropped]

    def forget(self, step: int) -> None:
        """A checkpoint has these steps now: what they were trained on is needed no more."""
        self._taken = {of: batch for of, batch in self._taken.items() if of > step}

    def since(self, step: int) -> list[Asked] | None:
        """What was asked since a step, to be trained on again and first; None where that is no longer known."""
        if step < self._dropped:
            return None
        again = [one for of in sorted(self._taken) if of > step for one in self._taken[of]]
        return again + self.asked

    def note_saved(self) -> None:
        """A checkpoint holds what is explored by now."""
        self._saved = {one for one in self.asked if one.explored is not None}

    @property
    def has_unsaved(self) -> bool:
        """Whether something was explored ahead that no checkpoint holds."""
        return any(one.explored is not None and one not in self._saved for one in self.asked)

    async def close(self) -> None:
        for task in self._under_way.values():
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)
        self._under_way.clear()

    # -- the three ways

    async def _fixed(self, step: int) -> list[Asked]:
        self._ask(step, self._config.rollout.prompts_per_step - len(self._of(step)), step)
        own = self._of(step)
        async with asyncio.TaskGroup() as group:
            for one in own:
                group.create_task(self._run(one))
        return own

    async def _mixed(self, step: int) -> list[Asked]:
        """For each group without signal exactly one more question is asked, so that the questions are the same whatever
        the timing."""
        count, most, own = self._config.rollout.prompts_per_step, self._most, self._of(step)
        async with asyncio.TaskGroup() as group:

            async def run(one: Asked) -> None:
                await self._run(one)
                ask()

            def ask() -> None:
                more = self._ask(step, min(most, count + sum(one.is_silent for one in own)) - len(own), step)
                own.extend(more)
                start(more)

            def start(questions: Sequence[Asked]) -> None:
                for one in questions:
                    group.create_task(run(one))

            start(own)
            ask()
        return own

    async def _first(self, step: int) -> list[Asked]:
        """As many questions are under way as a batch holds and `rollout.oversample` more; the batch is closed as soon
        as it is full. The last batch of a run waits for all that are under way."""
        if own := self._of(step):
            return own  # it was closed before the run was interrupted
        count, is_last = self._config.rollout.prompts_per_step, step >= self._config.run.steps
        window = count + math.ceil(count * self._config.rollout.oversample)
        window = min(window, count * max(1, self._config.run.steps - step + 1))  # nothing is left over at the end
        while True:
            while not self._ended.empty():
                self._settle(self._ended.get_nowait())
            open_to = [one for one in self.asked if one.batch is None]
            done = sorted((one for one in open_to if one.explored is not None), key=lambda one: one.done)
            silent = [one for one in done if one.is_silent] if self._is_dynamic else []
            is_full = len(done) - len(silent) >= count or (self._is_dynamic and len(done) >= self._most)
            if is_full and not (is_last and len(done) < len(open_to)):
                break
            if not is_full:
                most = len(self._data) if self._is_dynamic else window
                open_to += self._ask(step, min(window + len(silent), most) - len(open_to))
            for one in open_to:
                if one.explored is None and one not in self._under_way:
                    self._begin(one)
            if not self._under_way:
                break  # the data holds no other questions
            for _ in range(1 if self._is_dynamic or is_full else min(count - len(done), len(self._under_way))):
                self._settle(await self._ended.get())  # until then nothing more is asked
        mixed = [one for one in done if one not in silent]
        chosen = {*(mixed if is_last else mixed[:count]), *silent}
        batch = [one for one in self.asked if one in chosen]
        for one in batch:
            one.batch = step
        return batch

    def _begin(self, one: Asked) -> None:
        self._under_way[one] = asyncio.create_task(self._run(one))
        self._under_way[one].add_done_callback(lambda _: self._ended.put_nowait(one))

    def _release_unfinished_batches(self) -> None:
        """A run that was not partial may have left some: their questions belong to whichever batch comes first."""
        unfinished = {one.batch for one in self.asked if one.explored is None}
        for one in self.asked:
            if one.batch in unfinished:
                one.batch = None

    def _settle(self, one: Asked) -> None:
        self._under_way.pop(one).result()  # raises what the question raised

    @property
    def _most(self) -> int:
        most = int(self._config.rollout.prompts_per_step * self._config.algorithm.dynamic_sampling.max_factor)
        return min(most, len(self._data))

    def _of(self, step: int) -> list[Asked]:
        return [one for one in self.asked if one.batch == step]

    def _ask(self, step: int, count: int, batch: int | None = None) -> list[Asked]:
        """More questions for a batch, or for whichever comes first; fewer where the data holds no others.

        Questions that a partial run left come first.
        """
        if count <= 0:
            return []
        known = {one.prompt.question_id for one in self.asked if one.batch == batch}
        left: list[Asked] = []
        for one in self.asked if batch is not None else ():
            if one.batch is None and len(left) < count and one.prompt.question_id not in known:
                one.batch = batch
                left.append(one)
                known.add(one.prompt.question_id)
        more = [Asked(step, prompt, batch) for prompt in self._unlike(known, count - len(left))]
        self.asked += more
        return [*left, *more]

    def _unlike(self, known: set[str], count: int) -> list[Prompt]:
        """The next questions of the data that are not known yet, which become known. Those that ended two actors are
        known for ever."""
        known |= set(self._state.quarantined)
        found: list[Prompt] = []
        taken, enough = 0, 2 * len(self._data)  # each question comes at least once in two epochs
        while len(found) < count and taken < enough:
            prompts = self._data.take(min(count - len(found), enough - taken))
            taken += len(prompts)
            for prompt in prompts:
                if prompt.question_id not in known:
                    known.add(prompt.question_id)
                    found.append(prompt)
        return found

    async def _run(self, one: Asked) -> None:
        if one.explored is None:
            one.explored = await self._explore(one.prompt, one.step)
            self._done += 1
            one.done = self._done


def _filtered(explored: Explored) -> Explored:
    return tuple(replace(row, fate=TrajectoryFate.FILTERED) if row.is_solution else row for row in explored)


class WaitingBatches:
    """What was explored and not yet learned from, as part of a checkpoint: it is trained on after a resume, not sampled
    again. Questions under way are asked again."""

    def __init__(self, batches: Batches, data: Data, state: RunState, store: ObjectStore) -> None:
        self._batches, self._data, self._state, self._store = batches, data, state, store

    async def save(self, folder: Path) -> None:
        self._state.position = self._data.position
        asked = [replace(one) for one in self._batches.asked]
        self._batches.note_saved()
        self._state.waiting = len(asked)
        if not asked:
            return
        refs = refs_of(asked)
        numbers: dict[Ref | None, Ref | None] = {ref: number for number, ref in enumerate(refs)}
        records = await self._store.get(refs)
        _STORED.write(folder / FILE, ([_referring(one, numbers) for one in asked], records))


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a checkpoint's run had explored ahead, not yet in the object store."""

    asked: Sequence[Asked] = ()
    records: Sequence[Any] = ()

    @classmethod
    def read(cls, folder: Path, count: int) -> "Waiting":
        """`count`: how many questions the state says there are.

        Raises:
            ValueError: the file is missing or damaged.
        """
        if not count:
            return cls()
        try:
            asked, records = _STORED.read(folder / FILE)
        except OSError as error:
            raise ValueError(f"{FILE}: {error}") from error
        if len(asked) == count:
            return cls(asked, records)
        raise ValueError(f"{FILE} holds {len(asked)} questions and not {count}")

    def put_into(self, store: ObjectStore) -> list[Asked]:
        refs: dict[Ref | None, Ref | None] = {number: store.put(record) for number, record in enumerate(self.records)}
        return [_referring(one, refs) for one in self.asked]


def without_lost(asked: Iterable[Asked], lost: Container[Ref]) -> list[Asked]:
    """The same questions; those of which a record is lost are asked again."""
    return [
        replace(one, explored=None, done=-1) if any(ref in lost for ref in refs_of([one])) else one for one in asked
    ]


def refs_of(asked: Iterable[Asked]) -> list[Ref]:
    """What the rows of their explorations refer to, each once."""
    return list(dict.fromkeys(ref for one in asked for row in one.explored or () for ref in _refs(row)))


def _refs(row: Row) -> list[Ref]:
    return [ref for one in (row, *row.replays) for ref in (one.ref, one.context) if ref is not None]


def _referring(one: Asked, refs: dict[Ref | None, Ref | None]) -> Asked:
    """The same question with other references."""

    def changed(row: Row) -> Row:
        replays = tuple(map(changed, row.replays))
        return replace(row, ref=refs.get(row.ref), context=refs.get(row.context), replays=replays)

    return one if one.explored is None else replace(one, explored=tuple(map(changed, one.explored)))
