"""policy/rows.py: credit, fate and per-token weight of every row, on worked examples."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mel_ray.mel.lesson import lessons_of
from mel_ray.policy.batch import settle_fates
from mel_ray.policy.rows import (
    Lessons,
    advantage_spread,
    decide,
    kl_penalty_to_go,
    overlong_penalty,
    rows_of,
    score,
    shaped_reward,
    weigh,
    weigh_lessons,
)
from mel_ray.records.ledger import TrajectoryFate
from mel_ray.records.row import attempts, count_fates
from mel_ray.records.step import OptimizerStep
from tests.unit.builders import LENGTH, exploration, proven, small_config, verdict, with_options

ALGORITHMS = ["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "gspo", "cispo", "dapo", "rft"]
CONFIGS = {name: small_config(f"algorithm={name}") for name in ALGORITHMS}


def config(algorithm="grpo", **options):
    return with_options(CONFIGS[algorithm], **options)


def decided(questions, cfg, penalties=None):
    return decide(score(rows_of(questions), cfg.algorithm, cfg.rollout.max_tokens, penalties), cfg.algorithm)


def weighed(questions, cfg, past=()):
    """The mini-batches of a step, and its ledger."""
    rows = decided(questions, cfg)
    lessons = Lessons(lessons_of(rows, cfg.mel), cfg.mel.weight, past, 0.3) if cfg.mel.enabled else Lessons()
    minibatches = weigh(rows, lessons, cfg)
    return minibatches, count_fates(settle_fates(rows, [OptimizerStep(((part,),)) for part in minibatches]))


def totals(rows):
    """What each row weighs in all."""
    return [(row.pg_weight + row.nll_weight) * row.trained_tokens for row in rows]


# Question A is mixed: lengths 2 and 4, one lesson of 5 tokens. Question B is all right, lengths 3 and 1.
QUESTIONS = [exploration((2, 4), "cw", [proven(length=5)], "A"), exploration((3, 1), "cc", ref="B")]
RIGHT, WRONG = 1 / 2**0.5, -(1 / 2**0.5)  # 0.5 / Bessel std 0.7071

# (question, trajectory) -> (advantage, weight of each token); what is absent is not trained
WORKED = {
    "grpo": {("A", 0): (RIGHT, 1 / (4 * 2)), ("A", 1): (WRONG, 1 / (4 * 4))},
    "dr_grpo": {("A", 0): (0.5, 1 / (4 * 8)), ("A", 1): (-0.5, 1 / (4 * 8))},
    "rloo": {("A", 0): (1.0, 1 / 4), ("A", 1): (-1.0, 1 / 4)},
    # 10 tokens, 6 of reward 1: mean 0.6, variance 0.24
    "reinforce_pp": {
        ("A", 0): (0.4 / 0.24**0.5, 0.1), ("A", 1): (-0.6 / 0.24**0.5, 0.1),
        ("B", 0): (0.4 / 0.24**0.5, 0.1), ("B", 1): (0.4 / 0.24**0.5, 0.1),
    },
    # centred rewards 0.5, -0.5, 0, 0 on 2, 4, 3, 1 tokens: mean -0.1, variance 1.5 / 10 - 0.01 = 0.14
    "reinforce_pp_baseline": {
        ("A", 0): (0.6 / 0.14**0.5, 0.1), ("A", 1): (-0.4 / 0.14**0.5, 0.1),
        ("B", 0): (0.1 / 0.14**0.5, 0.1), ("B", 1): (0.1 / 0.14**0.5, 0.1),
    },
    "gspo": {("A", 0): (RIGHT, 1 / (4 * 2)), ("A", 1): (WRONG, 1 / (4 * 4))},
    "cispo": {("A", 0): (RIGHT, 0.1), ("A", 1): (WRONG, 0.1)},
    # rewards 1 and -1; the zone is the last 1.6 of 8 tokens, so no penalty here
    "dapo": {("A", 0): (RIGHT, 0.1), ("A", 1): (WRONG, 0.1)},
    # three correct ones, each a third
    "rft": {("A", 0): (1.0, 1 / (3 * 2)), ("B", 0): (1.0, 1 / (3 * 3)), ("B", 1): (1.0, 1 / 3)},
}  # fmt: skip


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("is_mel", [True, False])
def test_worked_example_with_and_without_meta_experience(algorithm, is_mel):
    (rows,), ledger = weighed(QUESTIONS, config(algorithm, mel__enabled=is_mel))
    found = {(row.ref, row.index): (row.credit, row.pg_weight) for row in rows if not row.is_lesson}
    assert found.keys() == WORKED[algorithm].keys()
    for key, expected in WORKED[algorithm].items():
        assert found[key] == pytest.approx(expected, abs=1e-4)
    lessons = [row for row in rows if row.is_lesson]
    assert [(row.pg_weight, row.nll_weight, row.span) for row in lessons] == ([(0, 1 / 5, None)] if is_mel else [])
    assert ledger.is_balanced


def test_fates_of_the_worked_example():
    _, ledger = weighed(QUESTIONS, config())
    assert ledger.trajectories == {TrajectoryFate.TRAINED: 2, TrajectoryFate.NO_SIGNAL: 2}
    _, ledger = weighed(QUESTIONS, config("rft"))
    assert ledger.trajectories == {TrajectoryFate.TRAINED: 3, TrajectoryFate.INCORRECT: 1}


def test_rows_are_flat_and_know_their_question():
    filtered = tuple(replace(row, fate=TrajectoryFate.FILTERED) for row in exploration((2, 2), "cc", ref="C"))
    rows = rows_of([QUESTIONS[0], filtered, QUESTIONS[1]])
    assert [(row.ref, row.group) for row in rows] == [
        ("A", 0), ("A", 0), ("drafts", 0), ("C", -1), ("C", -1), ("B", 1), ("B", 1),
    ]  # fmt: skip


def test_rft_weighs_by_question_and_drops_copies():
    # the builder's trajectories of one length hold the same tokens: the second is a copy of the first
    questions = [exploration((2, 2, 4, 1), "cccw"), exploration((3,), "c", ref="B")]
    by_question = {"mel__enabled": False, "algorithm__rft__weighting": "question"}
    (rows,), ledger = weighed(questions, config("rft", **by_question))
    assert ledger.trajectories == {
        TrajectoryFate.TRAINED: 3, TrajectoryFate.DUPLICATE: 1, TrajectoryFate.INCORRECT: 1,
    }  # fmt: skip
    # two solved questions, half each; the first half shared by two trajectories
    assert [row.index for row in rows] == [0, 2, 0]
    assert totals(rows) == pytest.approx([0.25, 0.25, 0.5])
    (rows,), _ = weighed(questions, config("rft", **by_question, algorithm__aggregation="token_mean"))
    assert totals(rows) == pytest.approx([0.5 * 2 / 6, 0.5 * 4 / 6, 0.5])
    _, ledger = weighed(questions, config("rft", mel__enabled=False, algorithm__rft__deduplicate=False))
    assert ledger.trajectories[TrajectoryFate.TRAINED] == 4


@pytest.mark.parametrize("regulariser", ["algorithm__kl__coefficient", "algorithm__entropy_coefficient"])
def test_a_regulariser_asks_something_of_trajectories_without_advantage(regulariser):
    (rows,), ledger = weighed(QUESTIONS, config(**{regulariser: 0.01}))
    assert ledger.trajectories == {TrajectoryFate.TRAINED: 4}
    assert [row.credit for row in rows if row.ref == "B"] == [0, 0]


def test_golden_numbers_of_the_overlong_penalty():
    # DAPO: max 100, zone 20: nothing up to 80, half way at 90, all at 100 and beyond
    lengths = [0, 80, 81, 90, 100, 101, 110]
    assert [overlong_penalty(n, 100, 20) for n in lengths] == pytest.approx([0, 0, -0.05, -0.5, -1, -1, -1])
    assert [overlong_penalty(n, 100, 0) for n in (100, 101)] == [0, -1]


def test_shaped_rewards():
    def shaped(row, **options):
        return shaped_reward(row, config(**options).algorithm, 8)

    (row,) = exploration((7,), "c")
    scored = [replace(row, verdict=verdict("c", reward)) for reward in (0.0, 0.5, 1.0)]
    assert [shaped(one, algorithm__incorrect_reward=-1.0) for one in scored] == [-1.0, 0.0, 1.0]
    # 7 of 8 tokens with the zone from 4 on: three quarters of a penalty of a third
    penalised = {"algorithm__overlong_zone": 0.5, "algorithm__overlong_penalty": 1 / 3}
    assert shaped(row, **penalised) == pytest.approx(0.75)
    for unjudged in (replace(row, verdict=verdict("t")), replace(row, verdict=None)):
        assert shaped(unjudged, **penalised) is None


def test_the_overlong_zone_lowers_long_answers():
    # max 8, zone 0.5: from 4 tokens on; a right answer of 8 tokens has reward 1 - 1, of 6 tokens 1 - 0.5
    rows = decided([exploration((2, 6, 8), "ccc")], config("dr_grpo", algorithm__overlong_zone=0.5))
    assert [row.credit for row in rows] == pytest.approx([0.5, 0.0, -0.5])


def with_kl(algorithm, where, coefficient=0.5):
    return config(algorithm, algorithm__kl__coefficient=coefficient, algorithm__kl__where=where)


def test_kl_in_the_reward_lowers_group_rewards_by_its_total():
    rows = rows_of([exploration((2, 2), "cw")])
    penalties = {("group", 0): np.array([0.5, 0.25], np.float32), ("group", 1): np.zeros(2, np.float32)}
    found = score(rows, with_kl("dr_grpo", "reward").algorithm, 8, penalties)
    # rewards 1 - 0.5 and 0: mean 0.25
    assert [row.credit for row in found] == [0.25, -0.25]


def test_kl_in_the_return_comes_after_the_groups_baseline():
    # equal rewards have no advantage however their KL differs (OpenRLHF); a trajectory nobody judged has nothing
    rows = rows_of([exploration((2, 2, 2), "cct")])
    penalties = {("group", i): np.array([0.5, 0.25 * i], np.float32) for i in range(3)}
    first, second, unjudged = score(rows, with_kl("grpo", "return").algorithm, 8, penalties)
    assert first.credit.tolist() == [-0.5, 0.0]
    assert second.credit.tolist() == [-0.5, -0.25]
    assert unjudged.credit == 0.0


@given(st.lists(st.lists(st.floats(-1, 1), min_size=1, max_size=5), min_size=2, max_size=6), st.randoms())
def test_whitened_returns_subtract_what_is_to_go_token_by_token(kl_of_rows, random):
    letters = "".join(random.choice("cw") for _ in kl_of_rows)
    cfg = with_kl("reinforce_pp", random.choice(["reward", "return"])).algorithm
    to_go = [[sum(row[t:]) for t in range(len(row))] for row in kl_of_rows]
    penalties = {("group", i): np.array([0.5 * x for x in one], np.float32) for i, one in enumerate(to_go)}
    found = score(rows_of([exploration(tuple(map(len, kl_of_rows)), letters)]), cfg, 8, penalties)
    tokens = [(letter == "c") - 0.5 * x for letter, row in zip(letters, to_go, strict=True) for x in row]
    mean = sum(tokens) / len(tokens)
    std = (sum((x - mean) ** 2 for x in tokens) / len(tokens)) ** 0.5
    if std < 1e-2:
        return
    expected = [(x - mean) / (std + cfg.advantage_eps) for x in tokens]
    assert np.concatenate([row.credit for row in found]) == pytest.approx(expected, abs=1e-4)


@given(st.lists(st.tuples(st.floats(-2, 0), st.floats(-2, 0)), max_size=6), st.sampled_from(["k1", "k2", "k3"]))
def test_the_kl_penalty_to_go_adds_up_what_follows(values, estimator):
    logprobs = np.array([own for own, _ in values], np.float32)
    reference = np.array([other for _, other in values], np.float32)
    d = (logprobs - reference).astype(np.float64)
    kl = {"k1": d, "k2": d * d / 2, "k3": np.exp(-d) - 1 + d}[estimator]
    found = kl_penalty_to_go(logprobs, reference, estimator, 0.3)
    assert found.dtype == np.float32
    assert found.tolist() == pytest.approx([0.3 * kl[t:].sum() for t in range(len(kl))], abs=1e-5)


def test_the_spread_of_advantages_is_their_root_mean_square():
    rows = score(rows_of(QUESTIONS), config("dr_grpo").algorithm, 8)
    assert advantage_spread(rows) == pytest.approx((2 * 0.25 / 4) ** 0.5)
    per_token = [replace(row, credit=np.array([0.0, 1.0], np.float32)) for row in rows]
    assert advantage_spread(per_token) == pytest.approx(0.5)
    assert advantage_spread([]) == 0


def test_lessons_share_the_weight_of_the_objective():
    question = exploration((2, 2), "cw", [proven(0, 5), proven(1, 10)])
    (rows,), _ = weighed([question], config())
    assert totals([row for row in rows if row.is_lesson]) == pytest.approx([0.5, 0.5])


def lessons_of_two_questions():
    first = rows_of([exploration((2, 2), "cw", [proven(0, 5), proven(1, 10)], "A")])
    second = [replace(row, question_id="other") for row in rows_of(QUESTIONS[:1])]
    return [*lessons_of(first, config().mel), *lessons_of(second, config().mel)]


@pytest.mark.parametrize(("normalisation", "expected"), [("question", [0.5, 0.5, 1.0]), ("experience", [2 / 3] * 3)])
def test_nll_is_averaged_over_lessons_or_over_questions(normalisation, expected):
    assert totals(weigh_lessons(lessons_of_two_questions(), 2.0, normalisation)) == pytest.approx(expected)


def test_past_lessons_have_a_weight_of_their_own():
    cfg = config()
    past = lessons_of(rows_of(QUESTIONS), cfg.mel) * 2
    rows = decided([QUESTIONS[1]], cfg)
    (trained,) = weigh(rows, Lessons((), 1.0, past, 0.3), cfg)
    assert totals([row for row in trained if row.is_lesson]) == pytest.approx([0.15, 0.15])


def test_nothing_is_balanced_against_nothing():
    cfg = config(mel__combination="balanced")
    past = lessons_of(rows_of(QUESTIONS), cfg.mel)
    rows = decided([exploration((2, 2), "cc"), exploration((2, 2), "ww")], cfg)
    assert weigh(rows, Lessons((), 1.0, past, 0.5), cfg) == []


def test_verifier_failures_and_truncation_have_their_own_fate():
    cut = exploration((2, 2), "cw", finish=LENGTH)
    _, ledger = weighed([exploration((2, 2, 2, 2), "cwte", ref="A"), cut], config(algorithm__mask_truncated=True))
    assert ledger.trajectories == {
        TrajectoryFate.TRAINED: 2,
        TrajectoryFate.VERIFIER_TIMEOUT: 1,
        TrajectoryFate.VERIFIER_ERROR: 1,
        TrajectoryFate.TRUNCATED: 2,
    }


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name not in ("reinforce_pp", "rft")])
def test_a_step_without_signal_is_skipped(algorithm):
    minibatches, ledger = weighed([exploration((2, 2), "cc", ref="A"), exploration((2, 2), "ww")], config(algorithm))
    assert minibatches == []
    assert ledger.trajectories == {TrajectoryFate.NO_SIGNAL: 4}


def test_minibatches_normalise_on_their_own():
    questions = [exploration((2, 2), "cw", ref="A"), exploration((2, 2), "cw", ref="B")]
    minibatches, _ = weighed(questions, config(algorithm__minibatches=2))
    assert [[row.ref for row in rows] for rows in minibatches] == [["A", "A"], ["B", "B"]]
    assert all(row.pg_weight == pytest.approx(1 / 4) for rows in minibatches for row in rows)


def test_what_dynamic_sampling_threw_away_is_in_the_ledger_alone():
    thrown = tuple(replace(row, fate=TrajectoryFate.FILTERED) for row in exploration((2, 2, 2), "ccc", ref="B"))
    (rows,), ledger = weighed([exploration((2, 2), "cw", ref="A"), thrown], config())
    assert ledger.trajectories == {TrajectoryFate.TRAINED: 2, TrajectoryFate.FILTERED: 3}
    assert {row.ref for row in rows} == {"A"}
    assert rows[0].pg_weight == pytest.approx(1 / (2 * 2))


def test_the_ledger_refuses_a_sample_without_a_fate():
    rows = rows_of(QUESTIONS)
    with pytest.raises(ValueError, match="does not add up"):
        count_fates(rows)
    assert len(attempts(rows)) == 4
