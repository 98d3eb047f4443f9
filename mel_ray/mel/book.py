"""The book of lessons: what was written about other questions, to be shown where a question like theirs is solved.

Beyond the paper. A step's lessons enter it when the step is learned from, so at `driver.capacity=0` what is found
depends on the steps before alone.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from mel_ray.config.learning import RetrievalConfig
from mel_ray.config.schema import MelConfig
from mel_ray.mel.retrieval import likenesses
from mel_ray.records.experience import RULE_COLUMN, Draft
from mel_ray.records.incident import LostRecords
from mel_ray.records.ports import ObjectStore
from mel_ray.records.row import Ref, Row, drafts
from mel_ray.records.stored import StoredRecords

FILE = "book.npz"


@dataclass(frozen=True, slots=True)
class Entry:
    """`text`: the question and the heuristics, by which it is found. `row`: of the draft. `rule`: the right one of its
    question, where a world knows it."""

    step: int
    text: str
    row: Row
    rule: str | None = None


_STORED = StoredRecords(Entry)


def searched(question: str, heuristics: Sequence[str]) -> str:
    return "\n".join([question, *heuristics])


def best(question: str, documents: Sequence[str], options: RetrievalConfig) -> int | None:
    """Number of the document most like the question, the latest of several; None where none has anything in common."""
    if not documents:
        return None
    scores = likenesses(question, documents, options)
    number = len(scores) - 1 - int(scores[::-1].argmax())
    return number if scores[number] > options.min_score else None


class Book:
    """At most `mel.retrieval.size` drafts that were replayed; the oldest leave first."""

    def __init__(self, mel: MelConfig, store: ObjectStore) -> None:
        self._options, self._store = mel.retrieval, store
        self._is_used = mel.enabled and (mel.retrieval.method != "none" or mel.lesson == "shuffled")
        self.entries: list[Entry] = []

    async def add(self, step: int, rows: Sequence[Row]) -> None:
        """The drafts among the rows of a step."""
        replayed = [draft for draft in drafts(rows) if draft.replays] if self._is_used else []
        records = await self._store.get(list(dict.fromkeys(draft.ref for draft in replayed)))
        by_ref: Mapping[Ref | None, Sequence[Draft]] = dict(
            zip(dict.fromkeys(draft.ref for draft in replayed), records, strict=True)
        )
        written = [by_ref[draft.ref][draft.index] for draft in replayed]
        self.entries += [
            Entry(step, _text(one), _plain(draft), one.question.columns.get(RULE_COLUMN))
            for draft, one in zip(replayed, written, strict=True)
        ]
        self.entries = self.entries[-self._options.size :]

    def find(self, question_id: str, question: str) -> Entry | None:
        """The proven lesson of another question that is most like this one."""
        known = [one for one in self.entries if one.row.is_proven and one.row.question_id != question_id]
        number = best(question, [one.text for one in known], self._options)
        return None if number is None else known[number]

    def any_other(self, question_id: str, seed: int, rule: str | None = None) -> Row | None:
        """A draft of the last step about another question, and where a world knows the rules about another than `rule`,
        by the seed; None while there is none."""
        last = self.entries[-1].step if self.entries else 0
        known = [
            one.row
            for one in self.entries
            if one.step == last and one.row.question_id != question_id and (rule is None or one.rule != rule)
        ]
        return Random(seed).choice(known) if known else None

    def forget(self, entry: Entry) -> None:
        """Its records are lost."""
        self.entries = [one for one in self.entries if one.row.ref != entry.row.ref]

    async def save(self, folder: Path) -> None:
        """Write the entries and the records their rows lead to. Those on a node that is gone are forgotten."""
        records: dict[Ref | None, Any] = {}
        for ref in dict.fromkeys(one.row.ref for one in self.entries):
            with suppress(LostRecords):
                (records[ref],) = await self._store.get([ref])
        self.entries = [one for one in self.entries if one.row.ref in records]
        if not self.entries:
            return
        numbers: dict[Ref | None, Ref | None] = {ref: number for number, ref in enumerate(records)}
        entries = [replace(one, row=replace(one.row, ref=numbers[one.row.ref])) for one in self.entries]
        _STORED.write(folder / FILE, (entries, list(records.values())))

    async def load(self, folder: Path) -> None:
        """Restore the entries; a checkpoint without any leaves the book empty.

        Raises:
            ValueError: the file is damaged.
        """
        entries, records = read_book(folder)
        refs: dict[Ref | None, Ref | None] = {number: self._store.put(record) for number, record in enumerate(records)}
        self.entries = [replace(one, row=replace(one.row, ref=refs[one.row.ref])) for one in entries]


def read_book(folder: Path) -> tuple[list[Entry], list[object]]:
    """A checkpoint's entries, their references numbers of the records; nothing where it has none.

    Raises:
        ValueError: the file is damaged, or holds something else.
        OSError: it cannot be read.
    """
    if not (folder / FILE).exists():
        return [], []
    match _STORED.read(folder / FILE):
        case (list(entries), list(records)) if all(isinstance(one, Entry) for one in entries):
            if {one.row.ref for one in entries} <= set(range(len(records))):
                return entries, records
    raise ValueError(f"{FILE} holds no lessons")


def _text(draft: Draft) -> str:
    return searched(draft.question.text, draft.experience.heuristics if draft.experience else ())


def _plain(draft: Row) -> Row:
    """Without what belongs to its step."""
    return replace(draft, replays=(), group=-1, fate=None)
