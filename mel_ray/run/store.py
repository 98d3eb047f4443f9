"""Experiences and trajectories as Parquet: one file a step, written aside and renamed."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mel_ray.records.experience import Draft
from mel_ray.records.row import Row
from mel_ray.records.trajectory import Group, Trajectory

EXPERIENCE_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("question_id", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("correct", pa.string()),  # y+
        ("incorrect", pa.string()),  # y-
        ("written", pa.string()),  # M as the policy wrote it
        ("bifurcation", pa.string()),  # s*
        ("critique", pa.string()),  # C
        ("heuristics", pa.list_(pa.string())),  # H
        ("replays", pa.list_(pa.string())),
        ("replay_verdicts", pa.list_(pa.string())),
        ("kept", pa.bool_()),
        ("fate", pa.string()),
        ("reason", pa.string()),
        ("weight_version", pa.int64()),
    ]
)
TRAJECTORY_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("question_id", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("response", pa.string()),
        ("verdict", pa.string()),
        ("reward", pa.float64()),  # before algorithm.incorrect_reward and length penalties; null if not judged
        ("parts", pa.map_(pa.string(), pa.float64())),  # of the reward, unweighted
        ("extracted", pa.string()),
        ("finish_reason", pa.string()),
        ("tokens", pa.int64()),
        ("seed", pa.int64()),
        ("weight_version", pa.int64()),
    ]
)


def experience_row(step: int, row: Row, draft: Draft, replays: Sequence[Trajectory]) -> dict[str, Any]:
    """One draft of D_M with everything known about it, kept or not; `replays` are those of `row.replays`."""
    written, experience = draft.trajectory, draft.experience
    return {
        "step": step,
        "question_id": draft.question.question_id,
        "question": draft.question.text,
        "answer": draft.question.truth.answer,
        "correct": draft.correct_text,
        "incorrect": draft.incorrect_text,
        "written": written.text if written else "",
        "bifurcation": experience.bifurcation if experience else None,
        "critique": experience.critique if experience else None,
        "heuristics": list(experience.heuristics) if experience else [],
        "replays": [trajectory.text for trajectory in replays],
        "replay_verdicts": [replay.verdict.outcome.value for replay in row.replays if replay.verdict],
        "kept": row.is_proven,
        "fate": row.fate.value if row.fate else None,
        "reason": draft.reason,
        "weight_version": written.weight_version if written else -1,
    }


def trajectory_row(step: int, row: Row, group: Group) -> dict[str, Any]:
    """One judged trajectory of a group."""
    trajectory, verdict = group.trajectories[row.index], row.verdict
    return {
        "step": step,
        "question_id": group.prompt.question_id,
        "question": group.prompt.question.text,
        "answer": group.prompt.question.truth.answer,
        "response": trajectory.text,
        "verdict": verdict.outcome.value if verdict else None,
        "reward": verdict.reward if verdict else None,
        "parts": dict(verdict.parts) if verdict else {},
        "extracted": verdict.extracted if verdict else None,
        "finish_reason": trajectory.finish_reason.value,
        "tokens": len(trajectory.token_ids),
        "seed": trajectory.seed,
        "weight_version": trajectory.weight_version,
    }


def write_rows(file: Path, rows: Sequence[dict[str, Any]], schema: pa.Schema) -> None:
    """Write a complete Parquet file; readers never see a part of it."""
    partial = file.with_name(f".{file.name}.partial")
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), partial)
    os.replace(partial, file)


def read_experiences(run: Path, kept_only: bool = False) -> list[dict[str, Any]]:
    """All experiences of a run in step order."""
    return [row for row in _read(sorted((run / "experiences").glob("step-*.parquet"))) if row["kept"] or not kept_only]


def _read(files: Iterable[Path]) -> list[dict[str, Any]]:
    return [row for file in files for row in pq.read_table(file).to_pylist()]
