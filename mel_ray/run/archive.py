"""The archive follows the rows' references and writes texts to the run folder.

Consumes the rows of a step; waits for the object store and the disk, while the policy pool trains.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from mel_ray.records.ports import ObjectStore
from mel_ray.records.row import Ref, Row, attempts, drafts
from mel_ray.records.trajectory import derive_seed
from mel_ray.run.folder import RunFolder
from mel_ray.run.metrics_file import Lines
from mel_ray.run.order_file import order_line
from mel_ray.run.store import EXPERIENCE_SCHEMA, TRAJECTORY_SCHEMA, experience_row, trajectory_row, write_rows


class RunArchive:
    """All experiences, and the trajectories of a share of the questions.

    `is_repeatable`: see run/order_file.py. `not_saved` hears what a full disk refused.
    """

    def __init__(
        self, folder: RunFolder, store: ObjectStore, trajectory_share: float, seed: int, is_repeatable: bool = True,
        not_saved: Callable[[str], None] = lambda sentence: None,
    ) -> None:  # fmt: skip
        self._folder, self._store, self._share, self._seed = folder, store, trajectory_share, seed
        self._is_repeatable, self._not_saved, self._order = is_repeatable, not_saved, Lines(folder.order)

    async def record(self, step: int, rows: Sequence[Row], version: int = 0) -> None:
        drafted = drafts(rows)
        tried = [row for row in attempts(rows) if self._is_chosen(step, row.question_id)]
        replays = [replay for draft in drafted for replay in draft.replays]
        refs = list(dict.fromkeys(row.ref for row in (*drafted, *replays, *tried) if row.ref is not None))
        records = dict(zip(refs, await self._store.get(refs), strict=True))
        try:
            await asyncio.to_thread(self._write, step, drafted, tried, records)
        except OSError as error:
            self._not_saved(f"experiences and trajectories of step {step} were not stored: {error.strerror or error}")
        self._order.append(order_line(step, rows, version, self._is_repeatable))

    def _write(self, step: int, drafted: Sequence[Row], tried: Sequence[Row], records: dict[Ref, Any]) -> None:
        experiences = []
        for row in drafted:
            replays = [records[replay.ref].trajectories[replay.index] for replay in row.replays]
            experiences.append(experience_row(step, row, records[row.ref][row.index], replays))
        if experiences:
            write_rows(self._folder.experiences(step), experiences, EXPERIENCE_SCHEMA)
        trajectories = [trajectory_row(step, row, records[row.ref]) for row in tried]
        if trajectories:
            write_rows(self._folder.trajectories(step), trajectories, TRAJECTORY_SCHEMA)

    def _is_chosen(self, step: int, question_id: str) -> bool:
        return derive_seed(self._seed, step, question_id, "archive") < self._share * 2**31
