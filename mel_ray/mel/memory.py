"""The memory of past lessons: a bounded replay buffer (beyond the paper), and its place in a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from mel_ray.records.ports import ObjectStore
from mel_ray.records.row import Ref, Row
from mel_ray.records.stored import StoredRecords

FILE = "lessons.npz"


@dataclass(frozen=True, slots=True)
class StoredLessons:
    """A checkpoint's lessons with the steps they were added in; their references are numbers of `records`."""

    entries: Sequence[tuple[int, Row]] = ()
    records: Sequence[Any] = ()

    @classmethod
    def read(cls, folder: Path) -> "StoredLessons":
        """Nothing where the checkpoint has none.

        Raises:
            ValueError: the file is damaged, or holds something else.
            OSError: it cannot be read.
        """
        if not (folder / FILE).exists():
            return cls()
        match StoredRecords().read(folder / FILE):
            case (list(entries), list(records)) if all(map(_is_entry, entries)):
                refs = {ref for _, row in entries for ref in (row.ref, row.context)} - {None}
                if refs <= set(range(len(records))):
                    return cls(entries, records)
        raise ValueError(f"{FILE} holds no lessons")


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, tuple) and list(map(type, entry)) == [int, Row]


class Memory:
    """At most `size` lessons, none older than `max_age` steps; the oldest leave first.

    What is drawn depends on seed and step alone.
    """

    def __init__(self, size: int, max_age: int, seed: int, store: ObjectStore) -> None:
        self._size, self._max_age, self._seed, self._store = size, max_age, seed, store
        self.entries: list[tuple[int, Row]] = []

    def add(self, step: int, lessons: Sequence[Row]) -> None:
        self.entries = (self.entries + [(step, lesson) for lesson in lessons])[-self._size :] if self._size else []

    def draw(self, step: int, count: int) -> list[Row]:
        """Up to `count` different lessons of earlier steps."""
        self.entries = self.entries[-self._size :] if self._size else []
        self.entries = [(born, lesson) for born, lesson in self.entries if step - born <= self._max_age]
        alive = [lesson for _, lesson in self.entries]
        return Random(f"memory:{self._seed}:{step}").sample(alive, min(count, len(alive)))

    async def save(self, folder: Path) -> None:
        """Write the entries and the records their references lead to."""
        if not self.entries:
            return
        refs = list(dict.fromkeys(ref for _, row in self.entries for ref in (row.ref, row.context) if ref is not None))
        numbers: dict[Ref | None, Ref | None] = {ref: number for number, ref in enumerate(refs)}
        entries = [(born, _plain(row, numbers)) for born, row in self.entries]
        records = await self._store.get(refs)
        StoredRecords().write(folder / FILE, (entries, records))

    async def load(self, folder: Path) -> None:
        """Restore the entries; a checkpoint without any leaves the memory empty.

        Raises:
            ValueError: the file is damaged.
        """
        stored = StoredLessons.read(folder)
        numbered = enumerate(stored.records)
        refs: dict[Ref | None, Ref | None] = {number: self._store.put(record) for number, record in numbered}
        self.entries = [(born, _plain(row, refs)) for born, row in stored.entries]


def _plain(row: Row, refs: dict[Ref | None, Ref | None]) -> Row:
    """A lesson with other references, and without what is not needed to train it again."""
    return replace(row, ref=refs.get(row.ref), context=refs.get(row.context), teaches=None)
