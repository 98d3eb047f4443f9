"""evaluation/evaluator.py: greedy and sampled answers to every question, and a journal of what is known already."""

import asyncio

import pytest

from mel_ray.evaluation.evaluator import Evaluator
from mel_ray.records.evaluation import Answered, Benchmark
from mel_ray.records.verdict import Outcome
from tests.driver.fakes import FakeJournal, FakeRewards, World, make
from tests.unit.builders import STOP, prompt


def evaluator_of(world, *overrides):
    system = make(world, *overrides)
    return Evaluator(system.cfg, system.rollout, FakeRewards(world)), system.rollout


def benchmark_of(names):
    return Benchmark("held", tuple(prompt(question_id=name) for name in names))


async def test_known_pass_counts_give_known_scores():
    # greedy takes the first verdict of each question; of 4 samples 2, 4 and 0 are correct
    world = World({"a": "ccww", "b": "cccc", "c": "wwww"})
    evaluator, _ = evaluator_of(world, "eval.samples=4", "eval.pass_k=[2,4]")
    report = await evaluator.evaluate(benchmark_of("abc"), 7, FakeJournal())
    assert (report.benchmark, report.step, report.questions) == ("held", 7, 3)
    assert report.scores["pass@1"] == pytest.approx(2 / 3)  # greedy: a and b
    assert report.scores["avg@4"] == pytest.approx(0.5)
    assert report.scores["pass@2"] == pytest.approx((1 - 1 / 6 + 1) / 3)  # 1 - C(2,2)/C(4,2) for question a
    assert report.scores["pass@4"] == pytest.approx(2 / 3)


async def test_what_the_journal_knows_is_not_asked_again():
    world = World({"a": "cw", "b": "cw"})
    evaluator, _ = evaluator_of(world, "eval.samples=2")
    known = Answered((Outcome.CORRECT,) * 2, (3, 3), (STOP, STOP))
    journal = FakeJournal({("a", 0.6): known})
    results = await evaluator.results(benchmark_of("ab"), journal)
    assert sorted(journal.added) == [("a", 0.0), ("b", 0.0), ("b", 0.6)]
    assert [result.sampled.correct for result in results] == [2, 1]


async def test_without_samples_only_the_greedy_answer_is_asked_for():
    evaluator, rollout = evaluator_of(World({"a": "cw"}), "eval.samples=0")
    (result,) = await evaluator.results(benchmark_of("a"), FakeJournal())
    assert (result.greedy.count, result.sampled.count) == (1, 0)
    assert [len(seeds) for seeds in rollout.seeds] == [1]


async def test_answers_come_in_the_benchmarks_order_and_with_the_same_seeds_at_every_evaluation():
    names = "dbca"
    world = World(dict.fromkeys(names, "cw"), delays={"d": 0.02, "b": 0.01})
    evaluator, rollout = evaluator_of(world, "eval.samples=2")
    for _ in range(2):
        results = await evaluator.results(benchmark_of(names), FakeJournal())
        assert [result.question_id for result in results] == list(names)
    assert sorted(rollout.seeds[:8]) == sorted(rollout.seeds[8:])
    assert len(set(rollout.seeds)) == 8


async def test_all_questions_are_asked_at_once_since_the_pools_bound_what_runs():
    names = "abcdefghijkl"
    world = World(dict.fromkeys(names, "cw"))
    evaluator, rollout = evaluator_of(world, "eval.samples=8")
    asked, everything_asked, generate = [], asyncio.Event(), rollout.generate

    async def waiting(prompt, sampling, turn):
        asked.append(prompt.question_id)
        if len(asked) == 2 * len(names):
            everything_asked.set()
        await everything_asked.wait()
        return await generate(prompt, sampling)

    rollout.generate = waiting
    results = await evaluator.results(benchmark_of(names), FakeJournal())
    assert len(results) == len(names)
