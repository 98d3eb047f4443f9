"""run/aside.py: what a rewind moves is neither lost nor there twice, also where it was killed."""

import json
import os
from collections import Counter

import pytest

from mel_ray.driver.state import RunState
from mel_ray.run import aside
from mel_ray.run.folder import RunFolder
from mel_ray.run.metrics_file import read_metrics


class Killed(BaseException):
    pass


def write_steps(folder, steps):
    """A few files of each kind for every step; step 0 is an evaluation alone."""
    for step in steps:
        for file in [folder.metrics, folder.order][: 2 if step else 1]:
            with file.open("a") as stream:
                stream.write(json.dumps({"step": step, "file": file.stem}) + "\n")
        if step:
            folder.experiences(step).write_text(f"e{step}")
            folder.trajectories(step).write_text(f"t{step}")
        if step % 2 == 0:
            (folder.evaluations / f"step-{step:06d}-held-2.json").write_text(f"v{step}")


def write_checkpoint(folder, step):
    saved = folder.checkpoints / f"step-{step:06d}"
    saved.mkdir()
    RunState(step=step).write(saved)
    (folder.checkpoints / "latest").write_text(saved.name)


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "mine")
    folder.prepare(0)
    write_steps(folder, range(6))
    write_checkpoint(folder, 2)
    return folder


def contents(folder):
    """Every line and every file of a folder with how often it is there, aside or not; state files by checkpoint."""
    found = Counter()
    for file in folder.path.rglob("*"):
        if file.is_file() and file.name not in ("latest", "format"):
            if file.suffix == ".jsonl":
                found.update(file.read_text().splitlines())
            else:
                found[f"{file.parent.name}/{file.name}"] += 1
    return found


def names(folder):
    return sorted(path.name for path in (folder.path / "aside").iterdir())


def test_everything_after_a_step_moves_under_the_same_names(run):
    before = contents(run)
    moved = run.rewind(2)
    assert str(moved) == "3 steps after step 2 were moved to aside/after-step-000002"
    assert contents(run) == before
    assert max(before.values()) == 1
    assert [row["step"] for row in read_metrics(run.metrics)] == [0, 1, 2]
    other = RunFolder(moved.folder)
    assert [row["step"] for row in read_metrics(other.metrics)] == [3, 4, 5]
    assert [json.loads(line)["step"] for line in other.order.read_text().splitlines()] == [3, 4, 5]
    assert other.experiences(4).read_text() == "e4"
    assert other.trajectories(5).read_text() == "t5"
    assert [file.name for file in other.evaluations.iterdir()] == ["step-000004-held-2.json"]
    assert not other.checkpoints.exists()


def test_nothing_is_created_where_there_is_nothing_to_move(run):
    assert run.rewind(5) is None
    assert not (run.path / "aside").exists()
    fresh = RunFolder(run.path.parent / "fresh")
    fresh.prepare(0)
    assert fresh.rewind(-1) is None


def test_every_rewind_has_a_folder_of_its_own(run):
    for _ in range(3):
        run.rewind(2)
        write_steps(run, [3])
    assert names(run) == ["after-step-000002", "after-step-000002-2", "after-step-000002-3"][: len(names(run))]
    assert len(names(run)) == 3
    assert run.rewind(2).steps == 1


def test_newer_checkpoints_move_too_and_latest_names_one_that_is_there(run):
    write_checkpoint(run, 4)
    moved = run.rewind(2)
    assert RunState.read(moved.folder / "checkpoints" / "step-000004").step == 4
    assert (run.checkpoints / "latest").read_text() == "step-000002"
    run.rewind(-1)
    assert sorted(run.checkpoints.iterdir()) == []


def test_a_run_without_a_checkpoint_starts_with_an_empty_folder(run):
    moved = run.rewind(-1)
    assert str(moved) == "5 steps of an earlier start were moved to aside/earlier-start"
    assert run.metrics.read_text() == ""
    assert len(list((moved.folder / "eval").iterdir())) == 3


def test_a_line_that_was_cut_off_or_damaged_moves(run):
    with run.metrics.open("a") as stream:
        stream.write('3\n{"step": 6, "rew')
    moved = run.rewind(5)
    assert str(moved) == "what was written after step 5 was moved to aside/after-step-000005"
    assert (moved.folder / "metrics.jsonl").read_text() == '3\n{"step": 6, "rew\n'
    assert len(read_metrics(run.metrics)) == 6


def killing(monkeypatch, at):
    """Let the process die before the `at`-th change of a file or folder."""
    left = [at]

    def dying(change):
        def changed(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return change(*arguments, **options)

        return changed

    monkeypatch.setattr(os, "replace", dying(os.replace))
    for name in ("mkdir", "rename", "rmdir", "unlink"):
        monkeypatch.setattr(aside.Path, name, dying(getattr(aside.Path, name)))


@pytest.mark.parametrize("then", [2, 1, 4, -1])
@pytest.mark.parametrize("at", range(24))
def test_a_rewind_that_was_killed_is_finished_by_the_next(run, at, then):
    write_checkpoint(run, 4)
    before = contents(run)
    with pytest.MonkeyPatch.context() as monkeypatch:
        killing(monkeypatch, at)
        try:
            run.rewind(2)
        except Killed:
            pass
    assert set(contents(run)) >= set(before)  # nothing is lost at any time
    run.rewind(then)
    assert contents(run) == before
    assert [name for name in names(run) if name.startswith(".")] == []
    assert all(row["step"] <= then for row in read_metrics(run.metrics) if then != 4)
    assert run.rewind(then) is None
