"""A run in which no optimizer step was made says so, and why; being cut off and being left out are two things."""

import json
from dataclasses import replace

import pytest

from mel_ray.records.ledger import Ledger, TrajectoryFate
from mel_ray.records.reports import StepReport
from mel_ray.run.closing import write_closing
from mel_ray.run.console import step_line
from mel_ray.run.folder import RunFolder
from mel_ray.run.metrics_file import MetricsFile
from mel_ray.run.unlearned import unlearned_text
from tests.driver.fakes import World, make
from tests.unit.builders import LENGTH


async def reports_of(outcomes, *overrides, steps=2, is_cut_off=False):
    system = make(World(outcomes), "mel.enabled=false", f"run.steps={steps}", *overrides)
    generate = system.rollout.generate

    async def cut_off(prompt, sampling):
        return tuple(replace(row, finish_reason=LENGTH) for row in await generate(prompt, sampling))

    if is_cut_off:
        system.rollout.generate = cut_off
    return [await system.step(step) for step in range(1, steps + 1)]


def closed(tmp_path, reports):
    folder = RunFolder(tmp_path / "run")
    folder.prepare(0)
    sink = MetricsFile(folder)
    for report in reports:
        sink.step(report)
    sink.close("done")
    text = write_closing(folder, "done", 1.0)
    return text, json.loads(folder.summary.read_text()), folder.report.read_text()


@pytest.mark.parametrize(
    ("outcomes", "overrides", "is_cut_off", "said"),
    [
        ({"a": "nn", "b": "nn"}, [], True,
         ["in 2 training steps", "8 of 8 trajectories brought no signal", "100% without a correct answer",
          "100% cut off at rollout.max_tokens", "100% without an answer", "0% not judged"]),
        ({"a": "cc"}, [], False,
         ["4 of 4 trajectories brought no signal", "100% with only correct ones", "0% cut off"]),
        ({"a": "cw"}, ["algorithm.mask_truncated=true"], True,
         ["4 of 4 trajectories were left out by algorithm.mask_truncated", "0% without a correct answer"]),
        ({"a": "ee", "b": "te"}, [], False, ["6 of 8 trajectories could not be judged", "100% not judged"]),
        ({"a": "ww"}, ["algorithm=rft"], False, ["4 of 4 trajectories were left out as incorrect"]),
    ],
)  # fmt: skip
async def test_a_run_without_an_optimizer_step_says_so_and_why(tmp_path, outcomes, overrides, is_cut_off, said):
    text, summary, page = closed(tmp_path, await reports_of(outcomes, *overrides, is_cut_off=is_cut_off))
    (sentence,) = [line for line in text.splitlines() if "no optimizer step" in line]
    assert sentence == f"nothing was learned: {summary['unlearned']}"
    assert [words for words in said if words not in sentence] == []
    assert summary["optimizer_steps"] == 0
    assert summary["truncated_share"] == float(is_cut_off)
    assert "no optimizer step was made" in page


def test_a_run_that_made_one_step_says_nothing(tmp_path):
    ledger = Ledger(2, 0, {TrajectoryFate.NO_SIGNAL: 2})
    metrics = dict.fromkeys(
        ("reward/mean", "group/mixed_share", "policy/entropy", "time/explore", "time/train", "time/publish"), 0.0
    )
    rows = [StepReport(step, metrics | {"batch/optimizer_steps": made}, ledger) for step, made in ((1, 0.0), (2, 1.0))]
    text, summary, page = closed(tmp_path, rows)
    assert "no optimizer step" not in text + page
    assert (summary["unlearned"], summary["optimizer_steps"]) == (None, 1)


def test_nothing_is_claimed_where_the_metrics_do_not_say():
    assert unlearned_text([]) is None
    assert unlearned_text([{"reward/mean": 0.0, "ledger": Ledger().as_dict()}]) is None


async def test_what_is_cut_off_is_not_what_is_left_out_for_it(tmp_path):
    for overrides, state in (([], "trained 4"), (["algorithm.mask_truncated=true"], "left out for being cut off 4")):
        reports = await reports_of({"a": "cw"}, *overrides, is_cut_off=True)
        assert all("cut off 1.00" in step_line(report.metrics) for report in reports)
        assert all(report.metrics["rollout/truncated_share"] == 1.0 for report in reports)
        _, summary, page = closed(tmp_path / state, reports)
        assert summary["truncated_share"] == 1.0
        assert f"<td>4</td><td>4</td><td>{state}</td>" in page
    (report,) = await reports_of({"a": "cw"}, steps=1)
    assert "cut off" not in step_line(report.metrics)
