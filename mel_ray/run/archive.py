"""The archive follows the refs the driver holds and writes texts to the run folder.

Consumes explorations; waits for the object store and the disk, while the policy pool trains.
"""

import asyncio
from collections.abc import Sequence

import ray

from mel_ray.run.store import (
    EXPERIENCE_SCHEMA,
    TRAJECTORY_SCHEMA,
    experience_row,
    trajectory_rows,
    write_rows,
)
from mel_ray.run.folder import RunFolder
from mel_ray.records.exploration import Exploration
from mel_ray.records.seeds import derive_seed


class RunArchive:
    """All experiences, and the trajectories of a share of the questions."""

    def __init__(self, folder: RunFolder, trajectory_share: float, seed: int) -> None:
        self._folder, self._share, self._seed = folder, trajectory_share, seed

    async def record(self, step: int, explored: Sequence[Exploration]) -> None:
        await asyncio.to_thread(self._record, step, explored)

    def _record(self, step: int, explored: Sequence[Exploration]) -> None:
        drafts = [draft for one in explored for draft in one.drafts]
        experiences = []
        for judged in drafts:
            draft = ray.get(judged.draft.ref)[judged.draft.index]
            replay = ray.get(judged.replay.group.ref) if judged.replay else None
            experiences.append(experience_row(step, draft, judged.fate, replay, judged.replay_verdict))
        if experiences:
            write_rows(self._folder.experiences(step), experiences, EXPERIENCE_SCHEMA)
        chosen = [one for one in explored if self._is_chosen(step, one.group.facts.question_id)]
        rows = [row for one in chosen for row in trajectory_rows(step, ray.get(one.group.ref), one.verdict)]
        if rows:
            write_rows(self._folder.trajectories(step), rows, TRAJECTORY_SCHEMA)

    def _is_chosen(self, step: int, question_id: str) -> bool:
        return derive_seed(self._seed, step, question_id, "archive") < self._share * 2**31
