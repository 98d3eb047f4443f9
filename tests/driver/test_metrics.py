"""driver/metrics.py: the stable metrics of a step, on a worked example."""

import asyncio
from dataclasses import replace

import pytest

from mel_ray.driver.metrics import step_metrics
from mel_ray.records.row import count_fates
from mel_ray.run.console import step_line
from tests.driver.fakes import World, make
from tests.unit.builders import LENGTH, draft, exploration, group, proven


def metrics_of(questions, *overrides, minibatches=1, **records):
    world = World({"q": "cw"})
    world.store.records |= records
    learned = asyncio.run(make(world, *overrides).learner.learn(1, questions))
    return step_metrics(learned, count_fates(learned.rows), minibatches)


def test_worked_example():
    mixed = exploration((2, 4), "cw", [proven(0, replays="wc"), proven(1, replays="wt")], "mixed")
    right = tuple(replace(row, finish_reason=LENGTH) for row in exploration((3, 7), "cc", ref="right"))
    failed = exploration((1, 1), "te", ref="failed")
    found = metrics_of([mixed, right, failed], mixed=group((2, 4)), drafts=(draft(), draft()), right=group((3, 7)))
    expected = {
        "reward/mean": 3 / 4,  # of the four that could be judged
        "group/mixed_share": 1 / 3,
        "group/all_correct_share": 1 / 3,
        "rollout/length_mean": 18 / 6,
        "rollout/length_max": 7,
        "rollout/truncated_share": 2 / 6,
        "verdict/correct": 3 / 6,
        "verdict/wrong": 1 / 6,
        "verdict/no_answer": 0,
        "verdict/timeout": 1 / 6,
        "verdict/error": 1 / 6,
        "mel/pairs": 2,
        "mel/parsed": 2,
        "mel/kept": 1,
        "mel/retention": 1 / 2,
        "mel/replay_reward": 1 / 3,  # of three that could be judged
        "mel/past": 0,
        "advantage/spread": (2 * 0.5 / 6) ** 0.5,  # 0.7071 twice and four zeros
        "batch/trained_sequences": 3,
        "batch/questions": 3,
        "batch/filtered_share": 0,
        "batch/skipped_minibatches": 0,
        "tokens/rollout": 18,
        "tokens/experience": 5 + 5 + 4 * 3,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)


def test_a_step_in_which_nothing_was_judged_has_finite_metrics():
    found = metrics_of([exploration((1, 1), "tt")], minibatches=2)
    assert found["reward/mean"] == found["mel/retention"] == found["mel/replay_reward"] == 0
    assert found["batch/skipped_minibatches"] == 2
    assert all(isinstance(value, float) for value in found.values())


def test_each_part_of_the_reward_is_a_metric_over_the_attempts_that_have_it():
    rows = exploration((1, 1, 1, 1), "cwce")
    parts = [{"correct": 1.0, "format": 1.0}, {"correct": 0.0, "format": 0.0}, {"correct": 1.0}, {"correct": 9.0}]
    judged = [replace(row, verdict=replace(row.verdict, parts=values)) for row, values in zip(rows, parts, strict=True)]
    found = metrics_of([tuple(judged)], group=group((1, 1, 1, 1)))
    assert found["reward/part/correct"] == pytest.approx(2 / 3)  # the verifier failed on the last one
    assert found["reward/part/format"] == 1 / 2
    assert not [name for name in metrics_of([rows], group=group((1, 1, 1, 1))) if name.startswith("reward/part/")]


async def test_the_console_finds_what_it_shows():
    report = await make(World({"a": "cw"})).step(1)
    assert step_line(report.metrics).startswith("reward 0.50  mixed 1.00  kept 1/1")
