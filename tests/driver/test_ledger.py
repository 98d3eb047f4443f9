"""What the ledger calls trained is what the shards hold with a weight: for random explorations, every algorithm, and
every way to combine the two objectives."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mel_ray.driver.learner import Learner
from mel_ray.mel.book import Book
from mel_ray.mel.memory import Memory
from mel_ray.mel.replay import prove
from mel_ray.policy.batch import rows_in
from mel_ray.policy.registry import AGGREGATIONS, ALGORITHMS
from mel_ray.records.experience import DraftState
from mel_ray.records.ledger import DraftFate, TrajectoryFate
from mel_ray.records.question import Question, Truth
from mel_ray.records.row import RowKind, count_fates, row_of_draft
from mel_ray.records.trajectory import FinishReason, Group, Prompt
from tests.driver.fakes import FakeArchive, FakePolicy, World
from tests.unit.builders import draft, judged, small_config, turns, with_options

CONFIG = small_config()
LETTERS = st.sampled_from("ccwwnte")
MASKS = st.lists(st.booleans(), max_size=6)

OPTIONS = {
    "algorithm__aggregation": st.sampled_from(list(AGGREGATIONS)),
    "algorithm__minibatches": st.integers(1, 3),
    "algorithm__epochs": st.integers(1, 2),
    "algorithm__mask_truncated": st.booleans(),
    "algorithm__entropy_coefficient": st.sampled_from([0.0, 0.01]),
    "algorithm__incorrect_reward": st.sampled_from([0.0, -1.0]),
    "algorithm__overlong_zone": st.sampled_from([None, 0.5]),
    "algorithm__kl__coefficient": st.sampled_from([0.0, 0.1]),
    "algorithm__kl__where": st.sampled_from(["loss", "reward", "return"]),
    "algorithm__rft__weighting": st.sampled_from(["trajectory", "question"]),
    "algorithm__rft__deduplicate": st.booleans(),
    "mel__enabled": st.sampled_from([True, True, True, False]),
    "mel__combination": st.sampled_from(["joint", "balanced", "separate"]),
    "mel__target": st.sampled_from(["experience", "replay"]),
    "mel__context": st.sampled_from(["retrospective", "question"]),
    "mel__sections": st.sampled_from(["all", "heuristics"]),
    "mel__normalisation": st.sampled_from(["experience", "question"]),
    "mel__memory__size": st.sampled_from([0, 4]),
    "observe__gradient_split_every": st.integers(0, 1),
    "cluster__policy__token_budget": st.integers(8, 80),
}


def record(draw, name):
    """A group of one to four trajectories, each with turns of its own."""
    masks = draw(st.lists(MASKS, min_size=1, max_size=4))
    question = Question("1 + 1?", Truth("2"), question_id=name)
    prompt = Prompt(question, range(1, draw(st.integers(2, 5)) + 1))
    finish = st.sampled_from(FinishReason)
    seeds = st.integers(0, 1)  # equal seeds and masks give copies
    return Group(prompt, tuple(replace(turns(m, seed=draw(seeds)), finish_reason=draw(finish)) for m in masks))


def judged_rows(draw, world, name, kind=RowKind.ATTEMPT):
    group = record(draw, name)
    letters = "".join(draw(LETTERS) for _ in group.trajectories)
    return judged(world.rows_of(group, f"{kind}-{name}", kind), letters)


def drafts_of(draw, world, name):
    states = draw(st.lists(st.sampled_from([DraftState.PARSED, *DraftState]), max_size=2))
    written, lengths = [], [draw(st.integers(1, 6)) for _ in states]
    for state, length in zip(states, lengths, strict=True):
        heuristics = (draw(st.integers(0, length - 1)), length)
        written.append(replace(draft(state, length), heuristics_span=heuristics))
    ref = world.store.put(tuple(written), f"drafts-{name}")
    rows = [replace(row_of_draft(one, index), ref=ref, question_id=name) for index, one in enumerate(written)]
    replays = [() if row.fate else judged_rows(draw, world, f"{name}-{row.index}", RowKind.REPLAY) for row in rows]
    return prove(rows, replays, draw(st.integers(1, 2)))


@st.composite
def steps(draw):
    """The explored questions of two steps, with the store that their references lead to, and options."""
    world, explored = World({}), []
    for step in (1, 2):
        questions = []
        for number in range(draw(st.integers(1, 4))):
            name = f"{step}-{number}"
            attempts = judged_rows(draw, world, name)
            if draw(st.integers(0, 4)) == 0:
                attempts = tuple(replace(row, fate=TrajectoryFate.FILTERED) for row in attempts)
            questions.append((*attempts, *drafts_of(draw, world, name)))
        explored.append(questions)
    options = {name: draw(values) for name, values in OPTIONS.items()}
    return world, explored, options, draw(st.integers(1, 3))


@pytest.mark.parametrize("advantage", ALGORITHMS)
@settings(max_examples=40)
@given(drawn=steps())
def test_the_ledger_calls_trained_exactly_what_the_shards_hold_with_a_weight(advantage, drawn):
    world, explored, options, ranks = drawn
    cfg = with_options(CONFIG, algorithm__advantage=advantage, **options)
    policy = FakePolicy(world, ranks)
    memory = Memory(cfg.mel.memory.size, cfg.mel.memory.max_age, 0, world.store)
    learner = Learner(cfg, policy, memory, FakeArchive(world), Book(cfg.mel, world.store))
    for step, questions in enumerate(explored, 1):
        policy.sequences.clear()
        policy.updates.clear()
        learned = asyncio.run(learner.learn(step, questions))
        own = [row.sample for rows in questions for row in rows]
        assert [row.sample for row in learned.rows] == own

        # the sequences as a rank makes them, and whether any of their tokens has a weight
        held = Counter(
            row.sample for row, sequence in policy.sequences if sequence.pg_weight.any() or sequence.nll_weight.any()
        )
        past = {row.sample for row in learned.lessons.past}
        trained = {row.sample for row in learned.rows if row.fate in (TrajectoryFate.TRAINED, DraftFate.TRAINED)}
        assert held.keys() - past == trained
        assert past.isdisjoint(own)
        assert set(held.values()) <= {1}  # and none of it twice

        ledger = count_fates(learned.rows)
        assert ledger.is_balanced
        assert all(row.fate is not None for row in learned.rows)
        check_fates(learned.rows, questions, cfg)
        check_steps(policy, ranks)


def check_fates(rows, questions, cfg):
    """What must not be trained is not, and what was known before is not forgotten."""
    before = [row for of_one in questions for row in of_one]
    for old, row in zip(before, rows, strict=True):
        assert old.fate in (None, row.fate)
        if row.fate is TrajectoryFate.TRAINED:
            assert not row.verdict.has_failed
            assert not (cfg.algorithm.mask_truncated and row.finish_reason is FinishReason.LENGTH)
            assert row.trained_tokens
        if row.fate is DraftFate.TRAINED:
            assert row.is_proven
            assert cfg.mel.enabled
        if row.fate is DraftFate.SKIPPED:
            assert row.is_proven


def check_steps(policy, ranks):
    """The ranks work in step, and lessons stand where the step says they do."""
    for optimizer_steps, _ in policy.updates:
        for step in optimizer_steps:
            assert len(step.shards) == ranks
            assert len({len(rank) for rank in step.shards}) == 1
            if step.experience_from is not None:
                kinds = [[{row.is_lesson for row in m} for m in rank] for rank in step.shards]
                for rank in kinds:
                    split = step.experience_from
                    assert rank == [{False}] * split + [{True}] * (len(rank) - split)
            if step.optimizer == "experience":
                assert all(row.is_lesson for row in rows_in(step.shards))
