"""Metrics of each source: a worked example, and that a run over several sources reports them."""

from dataclasses import replace

import pytest

from mel_ray.data.interleave import stream_of
from mel_ray.driver.loop import Loop
from mel_ray.driver.source_metrics import source_metrics
from mel_ray.records.row import rows_of_group
from mel_ray.records.trajectory import Group
from tests.driver.fakes import World, make
from tests.unit.builders import exploration, prompt, trajectory


def of_source(name: str, letters: str, ref: str):
    return [replace(row, source=name) for row in exploration((2,) * len(letters), letters, ref=ref)]


def test_worked_example():
    rows = [
        *of_source("a", "cw", "1"),
        *of_source("a", "cc", "2"),
        *of_source("a", "wt", "3"),
        *of_source("b", "tt", "4"),
    ]
    assert source_metrics(rows, ["a", "b", "c"]) == pytest.approx(
        {
            "source/a/share": 3 / 4,
            "source/a/reward": 3 / 5,  # of the five that could be judged
            "source/a/mixed_share": 1 / 3,
            "source/b/share": 1 / 4,
            "source/b/mixed_share": 0,
            "source/c/share": 0,
        }
    )
    assert source_metrics(rows, ["a"]) == {}


def test_a_row_knows_the_source_of_its_question():
    asked = prompt()
    asked = replace(asked, question=replace(asked.question, source="mine"))
    assert [row.source for row in rows_of_group(Group(asked, (trajectory(), trajectory())))] == ["mine", "mine"]


async def test_a_run_reports_its_sources():
    names = [f"q{n}" for n in range(8)]
    sources = "data.train=[{name: a, weight: 3}, {name: b}]"
    system = make(World(dict.fromkeys(names, "cw")), sources, "rollout.prompts_per_step=4", "mel.enabled=false")
    asked = [prompt(question_id=name) for name in names]
    asked = [replace(one, question=replace(one.question, source="ab"[n % 2])) for n, one in enumerate(asked)]
    system.loop.buffer.batches._data = system.loop.data = stream_of(asked, system.cfg)
    assert isinstance(system.loop, Loop)
    for step in (1, 2):
        metrics = (await system.step(step)).metrics
        assert (metrics["source/a/share"], metrics["source/b/share"]) == (0.75, 0.25)
        assert metrics["source/a/mixed_share"] == 1
        assert metrics["source/a/reward"] == metrics["source/b/reward"] == 0.5
    assert system.loop.state.position == 8


async def test_a_run_with_one_source_reports_none():
    metrics = (await make(World({"a": "cw"})).step(1)).metrics
    assert not [name for name in metrics if name.startswith("source/")]


async def test_a_run_over_several_sources_continues_and_repeats_nothing():
    """Also with dynamic sampling, which asks for as many questions as the answers require."""
    names = [f"q{n}" for n in range(12)]
    outcomes = {name: "cw" if n % 3 else "cc" for n, name in enumerate(names)}
    options = ("data.train=[{name: a, weight: 3}, {name: b}]", "rollout.prompts_per_step=3", "mel.enabled=false",
               "algorithm.dynamic_sampling.enabled=true")  # fmt: skip
    asked = [prompt(question_id=name) for name in names]
    asked = [replace(one, question=replace(one.question, source="ab"[n % 2])) for n, one in enumerate(asked)]

    def system_at(position: int):
        system = make(World(outcomes), *options)
        system.loop.buffer.batches._data = system.loop.data = stream_of(asked, system.cfg, position)
        return system

    whole, head = system_at(0), system_at(0)
    for step in range(1, 7):
        await whole.step(step)
    for step in range(1, 4):
        await head.step(step)
    tail = system_at(head.loop.state.position)
    for step in range(4, 7):
        await tail.step(step)
    assert head.loop.state.position > 9  # some were filtered
    assert head.world.who("generated") + tail.world.who("generated") == whole.world.who("generated")
