"""policy/batch.py: how two objectives make optimizer steps, what a shard holds, and what became of every row."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mel_ray.mel.lesson import lessons_of
from mel_ray.policy.batch import map_rows, optimizer_steps, rows_in, settle_fates, shard
from mel_ray.policy.rows import Lessons, decide, rows_of, score, weigh
from mel_ray.records.ledger import DraftFate, TrajectoryFate
from mel_ray.records.row import count_fates, drafts
from tests.unit.builders import LENGTH, exploration, proven, small_config, with_options

CONFIG = small_config()
QUESTIONS = [exploration((2, 4), "cw", [proven(length=5)], "A"), exploration((3, 1), "cc", ref="B")]


def planned(questions, cfg, is_split_due=False):
    """The rows of a step, its mini-batches and its optimizer steps on one rank."""
    rows = decide(score(rows_of(questions), cfg.algorithm, cfg.rollout.max_tokens), cfg.algorithm)
    minibatches = weigh(rows, Lessons(lessons_of(rows, cfg.mel), 1.0), cfg)
    return rows, minibatches, optimizer_steps(minibatches, cfg.mel, cfg.mel.weight, 1, 4096, is_split_due)


def kinds(step):
    """Of each microbatch, whether its rows are lessons."""
    (rank,) = step.shards
    return [[row.is_lesson for row in microbatch] for microbatch in rank]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [([[True, False, False]], None, None, "policy", 1.0)]),
        ({"mel__combination": "balanced", "mel__balance": 0.2}, [([[False, False], [True]], 1, 0.2, "policy", 1.0)]),
        ({"mel__combination": "separate", "mel__weight": 0.5},
         [([[False, False]], None, None, "policy", 1.0), ([[True]], None, None, "experience", 0.5)]),
    ],
)  # fmt: skip
def test_how_the_two_objectives_combine(options, expected):
    _, (rows,), steps = planned(QUESTIONS, with_options(CONFIG, **options))
    found = [(kinds(s), s.experience_from, s.balance, s.optimizer, s.lr_factor) for s in steps]
    assert found == expected
    # the weight is applied once: in the loss where the two are added, else elsewhere
    assert [row.nll_weight * row.trained_tokens for row in rows if row.is_lesson] == pytest.approx([1.0])


def test_the_balance_follows_the_weights_schedule():
    cfg = with_options(CONFIG, mel__combination="balanced", mel__balance=0.2, mel__weight=0.5)
    _, minibatches, _ = planned(QUESTIONS, cfg)
    (step,) = optimizer_steps(minibatches, cfg.mel, 0.25, 1, 4096)
    assert step.balance == pytest.approx(0.1)


def test_separate_steps_are_compared_when_asked():
    _, _, steps = planned(QUESTIONS, with_options(CONFIG, mel__combination="separate"), is_split_due=True)
    assert [(step.optimizer, step.is_compared) for step in steps] == [("policy", True), ("experience", True)]


def test_lessons_without_attempts_are_compared_with_nothing():
    questions = [exploration((2, 2), "cw", [proven()], finish=LENGTH)]
    cfg = with_options(CONFIG, mel__combination="separate", algorithm__mask_truncated=True)
    _, _, steps = planned(questions, cfg, is_split_due=True)
    assert [(step.optimizer, step.is_compared) for step in steps] == [("experience", False)]


def test_gradients_can_be_told_apart_when_asked():
    _, _, (step,) = planned(QUESTIONS, CONFIG, is_split_due=True)
    assert (step.experience_from, step.balance) == (1, None)
    assert kinds(step) == [[False, False], [True]]


@given(st.integers(1, 5), st.integers(1, 8))
def test_fillers_carry_no_weight(sequences, ranks):
    rows = [
        replace(row, pg_weight=0.5, nll_weight=0.25) for row in exploration((4,) * sequences, "c" * sequences)
    ]  # fmt: skip
    everything = rows_in(shard(rows, ranks, 64))
    assert sum(row.pg_weight for row in everything) == pytest.approx(0.5 * sequences)
    assert sum(row.nll_weight for row in everything) == pytest.approx(0.25 * sequences)
    assert {row.index for row in everything if row.has_weight} == set(range(sequences))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 4), st.integers(8, 200))
def test_changing_every_row_keeps_the_shards_as_they_are(lengths, ranks, budget):
    shards = shard(exploration(tuple(lengths), "c" * len(lengths)), ranks, budget)
    changed = map_rows(shards, lambda row: replace(row, nll_weight=row.index + 1.0))
    assert [[len(m) for m in rank] for rank in changed] == [[len(m) for m in rank] for rank in shards]
    assert [row.nll_weight - 1 for row in rows_in(changed)] == [row.index for row in rows_in(shards)]


def test_a_rank_is_told_its_own_shard_alone():
    _, minibatches, _ = planned(QUESTIONS, CONFIG)
    (step,) = optimizer_steps(minibatches, CONFIG.mel, 1.0, 3, 16)
    assert [step.of_rank(rank).shards for rank in range(3)] == [(step.shards[rank],) for rank in range(3)]


def test_trained_is_what_a_shard_holds_and_the_rest_of_the_proven_is_skipped():
    rows, _, steps = planned(QUESTIONS, CONFIG)
    settled = settle_fates(rows, steps)
    assert [row.fate for row in settled if row.ref == "A"] == [TrajectoryFate.TRAINED] * 2
    assert [row.fate for row in drafts(settled)] == [DraftFate.TRAINED]
    nothing = settle_fates(rows, [])
    assert [row.fate for row in nothing if row.ref == "A"] == [TrajectoryFate.SKIPPED] * 2
    assert [(row.fate, row.is_proven) for row in drafts(nothing)] == [(DraftFate.SKIPPED, True)]


def test_a_replay_that_is_trained_stands_for_its_draft():
    rows, (minibatch,), steps = planned(QUESTIONS, with_options(CONFIG, mel__target="replay"))
    assert [row.ref for row in minibatch if row.is_lesson] == ["replays"]
    assert [row.fate for row in drafts(settle_fates(rows, steps))] == [DraftFate.TRAINED]


def test_a_lesson_that_no_batch_took_is_not_called_trained():
    # nothing to balance the lesson against: every attempt was cut off, and cut-off attempts are left out
    cfg = with_options(CONFIG, mel__combination="balanced", algorithm__mask_truncated=True)
    rows, minibatches, steps = planned([exploration((8, 8), "cw", [proven()], finish=LENGTH)], cfg)
    assert (minibatches, steps) == ([], ())
    ledger = count_fates(settle_fates(rows, steps))
    assert ledger.trajectories == {TrajectoryFate.TRUNCATED: 2}
    assert ledger.drafts == {DraftFate.SKIPPED: 1}
