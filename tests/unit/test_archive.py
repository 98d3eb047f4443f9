"""run/archive.py and evaluation/journal.py: what the run folder keeps of a step and of an evaluation."""

import asyncio
import json
import resource
import signal
from contextlib import contextmanager
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from mel_ray.evaluation.journal import FileJournal, RunJournals
from mel_ray.policy.batch import settle_fates
from mel_ray.policy.rows import rows_of
from mel_ray.records.experience import DraftState
from mel_ray.records.ledger import TrajectoryFate
from mel_ray.records.question import Question, Truth
from mel_ray.records.row import RowKind
from mel_ray.records.step import OptimizerStep
from mel_ray.records.trajectory import Group, Prompt
from mel_ray.records.verdict import Outcome
from mel_ray.run.archive import RunArchive
from mel_ray.run.folder import RunFolder
from mel_ray.run.metrics_file import Lines
from mel_ray.run.store import read_experiences
from tests.unit.builders import (
    FakeStore,
    draft,
    draft_row,
    exploration,
    group,
    proven,
    rows_of_record,
    trajectory,
    turns,
)


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.prepare(0)
    return run


def record(folder, rows, share=0.0, **records):
    archive = RunArchive(folder, FakeStore(**records), share, seed=0)
    asyncio.run(archive.record(3, rows))


DRAFTS = (draft(), draft(), draft(DraftState.LEAKED_ANSWER))
STEP = rows_of(
    [
        exploration(
            (2, 2), "cw", [proven(0, replays="wc"), proven(1, replays="ww"), draft_row(DraftState.LEAKED_ANSWER, 2)]
        )
    ]
)
RECORDS = {"group": group((2, 2)), "drafts": DRAFTS, "replays": group((3, 3))}


def experiences(folder):
    rows = read_experiences(folder.path)
    return [(row["fate"], row["kept"], row["replay_verdicts"]) for row in rows]


@pytest.mark.parametrize("is_trained", [True, False])
def test_kept_says_what_was_proven_and_the_fate_what_the_batch_made_of_it(folder, is_trained):
    lesson = replace(STEP[2], nll_weight=0.1)
    steps = [OptimizerStep((((lesson,),),))] if is_trained else []
    record(folder, settle_fates(STEP, steps), **RECORDS)
    assert experiences(folder) == [
        ("trained" if is_trained else "skipped", True, ["wrong", "correct"]),
        ("replay_failed", False, ["wrong", "wrong"]),
        ("leaked_answer", False, []),
    ]
    first, _, rejected = read_experiences(folder.path)
    assert (first["step"], first["written"], first["heuristics"]) == (3, "M", ["If a, then b."])
    assert (first["replays"], rejected["replays"]) == (["\\boxed{2}"] * 2, [])
    assert (rejected["bifurcation"], rejected["heuristics"]) == (None, [])


def test_a_draft_that_was_never_written_is_kept_too(folder):
    skipped = replace(draft(DraftState.CONTEXT_TOO_LONG), written=None)
    record(folder, [draft_row(DraftState.CONTEXT_TOO_LONG)], drafts=(skipped,))
    (row,) = read_experiences(folder.path)
    assert (row["fate"], row["written"], row["weight_version"]) == ("context_too_long", "", -1)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_questions_is_kept_with_all_of_their_trajectories(folder, share):
    names = [f"q{number}" for number in range(40)]
    rows = [row for name in names for row in exploration((2, 2), "cw", ref=name, question_id=name)]
    rows = [replace(row, fate=TrajectoryFate.TRAINED) for row in rows]
    record(folder, rows, share, **{name: group((2, 2), name) for name in names})
    file = folder.trajectories(3)
    stored = pq.read_table(file).to_pylist() if file.exists() else []
    counts = [sum(row["question_id"] == name for row in stored) for name in names]
    assert set(counts) <= {0, 2}
    assert sum(counts) / 80 == pytest.approx(share, abs=0.25 if share == 0.5 else 0)
    assert all(row["verdict"] in ("correct", "wrong") for row in stored)


def test_a_step_without_drafts_or_chosen_trajectories_writes_nothing(folder):
    record(folder, rows_of([exploration((2, 2), "cc")]), **RECORDS)
    assert not folder.experiences(3).exists()
    assert not folder.trajectories(3).exists()


def test_a_stored_trajectory_names_the_newest_weights_that_sampled_it(folder):
    several = Group(
        Prompt(Question("1 + 1?", Truth("2"), question_id="q"), [1]), (turns([1, 0, 1], versions=[4, 4, 5]),)
    )
    record(folder, rows_of_record(several, "c", "several"), 1.0, several=several)
    (row,) = pq.read_table(folder.trajectories(3)).to_pylist()
    assert (row["weight_version"], row["tokens"], row["answer"]) == (5, 3, "2")


def test_stored_trajectories_have_their_reward_and_its_parts_under_one_schema(folder):
    rows = rows_of([exploration((2, 2), "cw")])
    mixed = replace(rows[0].verdict, score=1.2, parts={"correct": 1.0, "format": 0.2})
    schemas = []
    for first in (replace(rows[0], verdict=mixed), rows[0]):
        record(folder, [first, replace(rows[1], verdict=None)], 1.0, **RECORDS)
        table = pq.read_table(folder.trajectories(3))
        schemas.append(table.schema)
        stored = [(row["reward"], dict(row["parts"])) for row in table.to_pylist()]
        assert stored[0] == ((1.2, mixed.parts) if first.verdict is mixed else (1.0, {}))
        assert stored[1] == (None, {})
    assert schemas[0] == schemas[1]


def test_a_journal_keeps_the_parts_too(folder):
    store = FakeStore(answers=group((2,)))
    (row,) = rows_of_record(store.records["answers"], "c", "answers")
    row = replace(row, verdict=replace(row.verdict, score=0.5, parts={"correct": 0.5}))
    journal = FileJournal(folder.evaluations / "held.jsonl", store)
    asyncio.run(journal.add([row], 0.0))
    (stored,) = pq.read_table(FileJournal(journal.file, FakeStore()).write_parquet()).to_pylist()
    assert (stored["reward"], stored["parts"]) == (0.5, [("correct", 0.5)])


def journal_of(folder, letters="cw"):
    store = FakeStore(answers=group((2,) * len(letters)))
    judged = rows_of_record(store.records["answers"], letters, "answers")
    journal = FileJournal(folder.evaluations / "held.jsonl", store, step=4)
    asyncio.run(journal.add(judged, 0.6))
    return journal


def test_a_journal_remembers_what_it_was_told_also_after_a_crash(folder):
    journal = journal_of(folder)
    again = FileJournal(journal.file, FakeStore(), step=4)
    for one in (journal, again):
        found = one.find("q", 0.6, 2)
        assert (found.outcomes, found.lengths) == ((Outcome.CORRECT, Outcome.WRONG), (2, 2))
        assert one.find("q", 0.0, 2) is None
        assert one.find("q", 0.6, 3) is None  # another number of samples was asked for
        assert one.find("other", 0.6, 2) is None


def test_a_line_that_a_crash_cut_off_is_asked_again(folder):
    journal = journal_of(folder)
    whole = journal.file.read_text()
    journal.file.write_text(whole + whole[: len(whole) // 2].replace('"q"', '"r"'))
    again = FileJournal(journal.file, FakeStore(answers=group((2,), "r")), step=4)
    assert again.find("q", 0.6, 2) is not None
    assert again.find("r", 0.6, 2) is None
    asyncio.run(again.add(rows_of_record(group((2,), "r"), "c", "answers"), 0.0))
    lines = again.file.read_text().splitlines()
    assert [json.loads(lines[n])["question_id"] for n in (0, -1)] == ["q", "r"]


def test_a_finished_journal_leaves_a_table_of_all_answers(folder):
    journal = journal_of(folder, "cwt")
    asyncio.run(journal.close())
    assert not journal.file.exists()
    table = pq.read_table(journal.file.with_suffix(".parquet")).to_pylist()
    assert [(row["step"], row["verdict"]) for row in table] == [(4, "correct"), (4, "wrong"), (4, "timeout")]


def test_the_journal_of_an_interrupted_run_is_not_continued(folder):
    journals = RunJournals(folder, FakeStore(answers=group((2,))))
    first = journals.open("held", 4)
    asyncio.run(first.add(rows_of_record(group((2,)), "c", "answers"), 0.0))
    assert journals.open("held", 4).find("q", 0.0, 1) is None


def test_a_replay_row_is_no_attempt_of_the_step(folder):
    replays = rows_of_record(group((3,)), "c", "replays", RowKind.REPLAY)
    record(folder, replays, 1.0, **RECORDS)
    assert not folder.trajectories(3).exists()


def test_every_replay_of_a_draft_is_looked_up_whatever_its_reference(folder):
    answers = Group(group().prompt, (trajectory(3, "first"), trajectory(3, "second")))
    replays = rows_of_record(answers, "wc", 0, RowKind.REPLAY)  # a reference may be any hashable thing
    store = FakeStore(drafts=DRAFTS)
    store.records[0] = answers
    rows = settle_fates([replace(STEP[2], replays=replays)], [])
    asyncio.run(RunArchive(folder, store, 0.0, seed=0).record(3, rows))
    assert read_experiences(folder.path)[0]["replays"] == ["first", "second"]


def test_what_a_full_disk_refuses_is_told_and_lines_come_later(folder):
    file, told = folder.path / "lines.jsonl", []
    lines = Lines(file)
    lines.append("1")
    with full_disk(3):
        lines.append("22")
        assert file.read_text() == "1\n"
    lines.append("333")
    assert file.read_text() == "1\n22\n333\n"
    archive = RunArchive(folder, FakeStore(drafts=DRAFTS), 0.0, seed=0, not_saved=told.append)
    with full_disk(3):
        asyncio.run(archive.record(3, [replace(draft_row(), ref="drafts")]))
    (sentence,) = told
    assert sentence.startswith("experiences and trajectories of step 3 were not stored: ")
    assert sentence.endswith("File too large")
    assert not list((folder.path / "experiences").glob("step-*"))


@contextmanager
def full_disk(most: int):
    """Files may not grow beyond so many bytes."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
