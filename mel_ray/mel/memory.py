"""The memory of past lessons in a checkpoint: only here are its refs followed.

Consumes the memory's entries; waits for the object store and one file.
"""

import asyncio
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from mel_ray.mel.lesson import Memory

FILE = "lessons.pickle"


class LessonMemory:
    """Writes what the entries point to, and puts it back into an object store later."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def save(self, folder: Path) -> None:
        await asyncio.to_thread(self._save, folder / FILE)

    async def load(self, checkpoint: Path) -> None:
        """Restore the entries; a checkpoint without any leaves the memory empty."""
        if (checkpoint / FILE).exists():
            await asyncio.to_thread(self._load, checkpoint / FILE)

    def _save(self, file: Path) -> None:
        if not self._memory.entries:
            return
        refs = {
            ref for _, lesson in self._memory.entries for ref in (lesson.ref, lesson.context_ref) if ref is not None
        }
        numbers = {ref: number for number, ref in enumerate(refs)}
        entries = [
            (born, replace(lesson, ref=numbers[lesson.ref], context_ref=numbers.get(lesson.context_ref)))
            for born, lesson in self._memory.entries
        ]
        with file.open("wb") as stream:
            pickle.dump((entries, ray.get(list(refs))), stream)

    def _load(self, file: Path) -> None:
        with file.open("rb") as stream:
            entries, records = pickle.load(stream)  # our own checkpoint
        refs: list[Any] = [ray.put(record) for record in records]
        self._memory.entries = [
            (
                born,
                replace(
                    lesson,
                    ref=refs[lesson.ref],
                    context_ref=None if lesson.context_ref is None else refs[lesson.context_ref],
                ),
            )
            for born, lesson in entries
        ]
