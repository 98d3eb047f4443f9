"""run/: from a run folder to summary, page and terminal text, also with hostile model output."""

import json
from dataclasses import replace

import pytest

from mel_ray.cli.mel import main
from mel_ray.records.incident import Incident, IncidentKind
from mel_ray.records.ledger import DraftFate, Ledger, TrajectoryFate
from mel_ray.records.reports import EvalReport, StepReport
from mel_ray.run.closing import experience_text, write_closing
from mel_ray.run.console import PlainConsole, incident_line
from mel_ray.run.folder import FORMAT, RunFolder, RunFolderError, fresh_name
from mel_ray.run.metrics_file import MetricsFile, read_metrics
from mel_ray.run.report import mark_bifurcation, write_report
from mel_ray.run.store import EXPERIENCE_SCHEMA, experience_row, read_experiences, write_rows
from tests.unit.builders import draft, proven, trajectory

METRICS = {
    "reward/mean": 0.5, "group/mixed_share": 0.5, "mel/pairs": 2.0, "mel/parsed": 2.0, "mel/kept": 1.0,
    "mel/retention": 0.5, "policy/entropy": 0.1, "tokens/rollout": 100.0, "tokens/experience": 50.0,
    "time/explore": 1.0, "time/train": 1.0, "time/publish": 0.1, "time/step": 2.1,
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "my-run")
    folder.prepare(1000)
    sink = MetricsFile(folder)
    sink.evaluation(EvalReport("held", 0, 10, {"pass@1": 0.2, "avg@8": 0.3}))
    for step in (1, 2, 3):
        counted = Ledger(2, 2, {TrajectoryFate.TRAINED: 2}, {DraftFate.TRAINED: 1, DraftFate.REPLAY_FAILED: 1})
        sink.step(StepReport(step, METRICS | {"reward/mean": step / 10}, counted))
        kept, failed = replace(proven(replays="c"), fate=DraftFate.TRAINED), proven(replays="w")
        rows = [experience_row(step, row, draft(), [trajectory(3)]) for row in (kept, failed)]
        rows[0]["question"] = "<script>alert(1)</script> 1 + 1?"
        write_rows(folder.experiences(step), rows, EXPERIENCE_SCHEMA)
    sink.evaluation(EvalReport("held", 3, 10, {"pass@1": 0.6, "avg@8": 0.7}))
    sink.close("done")
    return folder


def test_closing_writes_summary_and_report(run):
    text = write_closing(run, "done", 12.0)
    summary = json.loads(run.summary.read_text())
    assert (summary["status"], summary["steps"], summary["last_reward"]) == ("done", 3, 0.3)
    assert summary["evaluations"]["held"]["3"]["pass@1"] == 0.6
    assert summary["ledger"]["trajectories"]["trained"] == 6
    assert summary["ledger"]["drafts"]["sampled"] == 6
    assert summary["ledger_balanced"] is True
    assert "0.200" in text
    assert "0.600" in text
    assert "3 meta-experiences kept" in text
    page = run.report.read_text()
    assert "<svg" in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "3 kept in all" in page


def test_a_run_without_steps_still_closes(tmp_path):
    folder = RunFolder(tmp_path / "none")
    folder.prepare(0)
    write_closing(folder, "interrupted", 1.0)
    assert json.loads(folder.summary.read_text())["steps"] == 0
    assert not folder.report.exists()


def test_rewinding_leaves_out_what_came_after(run, tmp_path):
    run.rewind(2)
    write_report([run.path], tmp_path / "page.html")
    assert "2 kept in all" in (tmp_path / "page.html").read_text()
    assert main(["report", str(run.path / "aside" / "after-step-000002")]) == 0
    rows = read_metrics(run.metrics)
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert {row["step"] for row in read_experiences(run.path)} == {1, 2}
    assert [file.name for file in sorted(run.evaluations.iterdir())] == ["step-000000-held.json"]


def test_a_cut_off_line_is_ignored(run):
    with run.metrics.open("a") as file:
        file.write('{"step": 4, "rew')
    assert len(read_metrics(run.metrics)) == 5
    run.rewind(3)
    assert len(run.metrics.read_text().splitlines()) == 5


def test_a_folder_without_room_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="MiB free"):
        RunFolder(tmp_path / "big").prepare(1 << 60)
    assert not (tmp_path / "big").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "run").prepare(0)


def test_fresh_names_are_fresh(tmp_path):
    first = fresh_name(tmp_path, "mel")
    (tmp_path / first).mkdir()
    assert fresh_name(tmp_path, "mel") != first


@pytest.mark.parametrize(
    ("bifurcation", "marked"),
    [("Step 2.", "Step 2: b"), ("Rule.", "Rule: r"), ('the line "Step 1: a" is wrong', ""), ("nowhere", ""), ("", "")],
)
def test_the_bifurcation_is_marked(bifurcation, marked):
    parts = mark_bifurcation("Rule: r\nStep 1: a\nStep 2: b\nAnswer: c", bifurcation)
    assert parts["marked"] == marked
    assert parts["before"] + parts["marked"] + parts["after"] == "Rule: r\nStep 1: a\nStep 2: b\nAnswer: c"


def test_the_report_command(run, capsys, tmp_path):
    assert main(["report", str(run.path), str(run.path)]) == 0
    assert (run.path / "compare.html").exists()
    assert main(["report", str(tmp_path)]) == 2
    assert "not a run folder" in capsys.readouterr().err


def test_the_experiences_command(run, capsys):
    assert main(["experiences", str(run.path), "--all", "--limit", "2"]) == 0
    assert "2 of 6 shown" in capsys.readouterr().out
    assert main(["experiences", str(run.path / "nope")]) == 2


def test_a_folder_of_another_format_is_refused_with_a_sentence(run):
    run.require_format()
    assert run.format_file.read_text() == f"{FORMAT}\n"
    for older in ("1", None):
        run.format_file.unlink() if older is None else run.format_file.write_text(older)
        with pytest.raises(
            RunFolderError, match=f"has format 1, and this version of mel_ray continues format {FORMAT}"
        ):
            run.require_format()


def test_what_is_stored_about_a_draft(run):
    first, second = read_experiences(run.path)[:2]
    assert (first["kept"], first["fate"], first["replay_verdicts"]) == (True, "trained", ["correct"])
    assert (second["kept"], second["fate"], second["replay_verdicts"]) == (False, "replay_failed", ["wrong"])
    assert [row["step"] for row in read_experiences(run.path, kept_only=True)] == [1, 2, 3]


def test_the_plain_console_prints_one_line_a_step(capsys):
    PlainConsole(3, 0).step(StepReport(1, METRICS, Ledger()))
    assert capsys.readouterr().out.startswith("step 1/3  reward 0.50  mixed 0.50  kept 1/2  150 tok/s")


def test_what_a_model_wrote_cannot_steer_a_terminal():
    hostile = "\x1b[2J\x1b]0;owned\x07 \u202etxt.exe\r\x9b1m"
    row = dict.fromkeys(("question", "answer", "incorrect", "correct", "bifurcation", "critique"), hostile)
    text = experience_text(row | {"step": 1, "kept": True, "heuristics": [hostile], "replays": [hostile]})
    assert all(c == "\n" or c.isprintable() for c in text)
    assert "\\x1b[2J" in text
    assert incident_line(Incident(IncidentKind.QUARANTINED, "q1", hostile)).isprintable()
