"""Journals of evaluations: every response kept, appended as it comes, so that a killed evaluation asks only the rest.

Consumes judged groups; waits for the object store and one appended line each. `close` turns the lines into Parquet.
"""

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mel_ray.records.evaluation import Answered
from mel_ray.records.ports import ObjectStore
from mel_ray.records.row import Row
from mel_ray.records.trajectory import FinishReason
from mel_ray.records.verdict import Outcome
from mel_ray.run.folder import RunFolder
from mel_ray.run.metrics_file import Lines
from mel_ray.run.store import TRAJECTORY_SCHEMA, trajectory_row, write_rows


class FileJournal:
    """One JSON line per question and temperature; a line cut off by a crash is ignored and asked again."""

    def __init__(self, file: Path, store: ObjectStore, step: int = 0) -> None:
        self.file, self._store, self._step = file, store, step
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        self._lines = [line for line in map(_parsed, text.splitlines()) if line]
        self._known = {(line["question_id"], line["temperature"]): line["rows"] for line in self._lines}
        file.parent.mkdir(parents=True, exist_ok=True)
        if text and not text.endswith("\n"):
            with file.open("a", encoding="utf-8") as stream:
                stream.write("\n")  # close the line that was cut off
        self._lock, self._appended = asyncio.Lock(), Lines(file)

    def find(self, question_id: str, temperature: float, count: int) -> Answered | None:
        rows = self._known.get((question_id, temperature))
        if rows is None or len(rows) != count:
            return None
        return Answered(
            tuple(Outcome(row["verdict"]) for row in rows),
            tuple(row["tokens"] for row in rows),
            tuple(FinishReason(row["finish_reason"]) for row in rows),
        )

    async def add(self, judged: Sequence[Row], temperature: float) -> None:
        (group,) = await self._store.get([row.ref for row in judged[:1] if row.ref is not None])
        line = {
            "question_id": judged[0].question_id,
            "temperature": temperature,
            "rows": [trajectory_row(self._step, row, group) for row in judged],
        }
        async with self._lock:
            self._appended.append(json.dumps(line))
        self._lines.append(line)
        self._known[(line["question_id"], temperature)] = line["rows"]

    def write_parquet(self) -> Path:
        """All responses as one Parquet file next to the journal."""
        rows = [row for line in self._lines for row in line["rows"]]
        target = self.file.with_suffix(".parquet")
        write_rows(target, rows, TRAJECTORY_SCHEMA)
        return target

    async def close(self) -> None:
        """Leave only the Parquet file, unless the disk is full."""
        with suppress(OSError):
            await asyncio.to_thread(self.write_parquet)
            self.file.unlink(missing_ok=True)


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


class RunJournals:
    """Journals of the evaluations of a training run, in its eval/ folder."""

    def __init__(self, folder: RunFolder, store: ObjectStore) -> None:
        self._folder, self._store = folder, store

    def open(self, benchmark: str, step: int) -> FileJournal:
        file = self._folder.evaluations / f"step-{step:06d}-{benchmark}.jsonl"
        file.unlink(missing_ok=True)  # answers of an interrupted run came from weights that are gone
        return FileJournal(file, self._store, step)
