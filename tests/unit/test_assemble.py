"""rl/assemble.py: credit, per-token weights on worked examples, fates, mini-batches, and how two objectives combine."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mel_ray.config.load import compose_config
from mel_ray.driver.planning import plan_lessons
from mel_ray.mel.lesson import Memory, lessons_of
from mel_ray.mel.replay import proven
from mel_ray.records import DraftFate, DraftState, SequenceKind, TrajectoryFate
from mel_ray.records.exploration import ReplayTicket
from mel_ray.records.update import KlFacts
from mel_ray.policy.batch import Lessons, assemble, lesson_specs, optimizer_steps
from mel_ray.policy.rows import assign_credit
from tests.unit.builders import draft_ticket, exploration, group, proven_draft, ticket, verdict

ALGORITHMS = ["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "gspo", "cispo", "dapo", "rft"]
CONFIGS = {name: compose_config([f"algorithm={name}", "rollout.max_tokens=8", "mel.weight=1.0"]) for name in ALGORITHMS}


def config(algorithm="grpo", *overrides):
    base = ["rollout.max_tokens=8", "mel.weight=1.0", f"algorithm={algorithm}"]
    return compose_config([*base, *overrides]) if overrides else CONFIGS[algorithm]


def assembled(questions, cfg):
    lessons = plan_lessons(questions, Memory(0, 1, 0), cfg, 1)
    return assemble(questions, lessons, cfg)


# Question A is mixed: lengths 2 and 4, one lesson of 5 tokens. Question B is all right, lengths 3 and 1.
QUESTIONS = [exploration((2, 4), "cw", (proven_draft(length=5),), "A"), exploration((3, 1), "cc", ref="B")]
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
    cfg = config(algorithm)
    cfg = cfg.model_copy(update={"mel": cfg.mel.model_copy(update={"enabled": is_mel})})
    batch = assembled(QUESTIONS, cfg)
    (specs,) = batch.minibatches
    found = {(s.ref, s.index): (s.advantage, s.pg_weight) for s in specs if s.kind is SequenceKind.TRAJECTORY}
    assert found.keys() == WORKED[algorithm].keys()
    for key, expected in WORKED[algorithm].items():
        assert found[key] == pytest.approx(expected, abs=1e-4)
    lessons = [s for s in specs if s.is_experience]
    assert [(s.pg_weight, s.nll_weight, s.span) for s in lessons] == ([(0, 1 / 5, (0, 5))] if is_mel else [])
    assert batch.ledger.is_balanced


def test_fates_of_the_worked_example():
    assert assembled(QUESTIONS, config()).ledger.trajectories == {
        TrajectoryFate.TRAINED: 2,
        TrajectoryFate.NO_SIGNAL: 2,
    }
    rft = assembled(QUESTIONS, config("rft")).ledger.trajectories
    assert rft == {TrajectoryFate.TRAINED: 3, TrajectoryFate.INCORRECT: 1}


def test_rft_weighs_by_question_and_drops_copies():
    facts = replace(group((2, 2, 4, 1)).facts(), digests=("x", "x", "y", "z"))
    first = replace(exploration((2, 2, 4, 1), "cccw"), group=replace(ticket((2, 2, 4, 1)), facts=facts))
    questions = [first, exploration((3,), "c", ref="B")]
    batch = assembled(questions, config("rft", "algorithm.rft.weighting=question", "mel.enabled=false"))
    assert batch.ledger.trajectories == {
        TrajectoryFate.TRAINED: 3, TrajectoryFate.DUPLICATE: 1, TrajectoryFate.INCORRECT: 1,
    }  # fmt: skip
    # two solved questions, half each; the first half shared by two trajectories
    totals = [(s.index, s.pg_weight * s.completion_tokens) for s in batch.minibatches[0]]
    assert totals == [(0, pytest.approx(0.25)), (2, pytest.approx(0.25)), (0, pytest.approx(0.5))]
    by_token = assembled(
        questions,
        config("rft", "algorithm.rft.weighting=question", "algorithm.aggregation=token_mean", "mel.enabled=false"),
    )
    totals = [s.pg_weight * s.completion_tokens for s in by_token.minibatches[0]]
    assert totals == pytest.approx([0.5 * 2 / 6, 0.5 * 4 / 6, 0.5])
    kept = assembled(questions, config("rft", "algorithm.rft.deduplicate=false", "mel.enabled=false"))
    assert kept.ledger.trajectories[TrajectoryFate.TRAINED] == 4


@pytest.mark.parametrize("regulariser", ["algorithm.kl.coefficient=0.01", "algorithm.entropy_coefficient=0.01"])
def test_a_regulariser_asks_something_of_trajectories_without_advantage(regulariser):
    batch = assembled(QUESTIONS, config("grpo", regulariser))
    assert batch.ledger.trajectories == {TrajectoryFate.TRAINED: 4}
    assert [s.advantage for s in batch.minibatches[0] if s.ref == "B"] == [0, 0]


def test_the_overlong_zone_lowers_long_answers():
    # max 8, zone 0.5: from 4 tokens on; a right answer of 8 tokens has reward 1 - 1, of 6 tokens 1 - 0.5
    questions = [exploration((2, 6, 8), "ccc")]
    cfg = config("dr_grpo", "algorithm.overlong_zone=0.5", "mel.enabled=false")
    advantages = [c.advantage for c in assign_credit(questions, cfg.algorithm, 8)[0]]
    assert advantages == pytest.approx([0.5, 0.0, -0.5])


def test_kl_in_the_reward_lowers_group_rewards_by_its_total():
    cfg = config("dr_grpo", "algorithm.kl.coefficient=0.5", "algorithm.kl.where=reward")
    kl = {(0, 0): KlFacts(1.0, 1.5, 1.25), (0, 1): KlFacts(0.0, 0.0, 0.0)}
    (found,) = assign_credit([exploration((2, 2), "cw")], cfg.algorithm, 8, kl)
    # rewards 1 - 0.5 and 0: mean 0.25
    assert [(c.advantage, c.kl_scale) for c in found] == [(0.25, 0.0), (-0.25, 0.0)]


def test_kl_in_the_return_comes_after_the_groups_baseline():
    # equal rewards have no advantage however their KL differs (OpenRLHF); a trajectory nobody judged has nothing
    cfg = config("grpo", "algorithm.kl.coefficient=0.5", "algorithm.kl.where=return")
    (found,) = assign_credit([exploration((2, 2, 2), "cct")], cfg.algorithm, 8)
    assert [(c.advantage, c.kl_scale) for c in found] == [(0.0, 0.5), (0.0, 0.5), (0.0, 0.0)]


@given(st.lists(st.lists(st.floats(-1, 1), min_size=1, max_size=5), min_size=2, max_size=6), st.randoms())
def test_kl_in_the_reward_whitens_returns_token_by_token(kl_of_rows, random):
    """From sums alone the driver finds the very moments of r - beta K_t over all tokens."""
    letters = "".join(random.choice("cw") for _ in kl_of_rows)
    cfg = config("reinforce_pp").algorithm
    cfg = cfg.model_copy(update={"kl": cfg.kl.model_copy(update={"coefficient": 0.5, "where": "reward"})})
    to_go = [[sum(row[t:]) for t in range(len(row))] for row in kl_of_rows]
    facts = {(0, i): KlFacts(k[0], sum(k), sum(x * x for x in k)) for i, k in enumerate(to_go)}
    (found,) = assign_credit([exploration(tuple(map(len, kl_of_rows)), letters)], cfg, 8, facts)
    tokens = [(letter == "c") - 0.5 * x for letter, row in zip(letters, to_go, strict=True) for x in row]
    mean = sum(tokens) / len(tokens)
    std = (sum((x - mean) ** 2 for x in tokens) / len(tokens)) ** 0.5
    if std < 1e-2:
        return
    expected = [(x - mean) / (std + cfg.advantage_eps) for x in tokens]
    actual = [c.advantage - c.kl_scale * x for c, row in zip(found, to_go, strict=True) for x in row]
    assert actual == pytest.approx(expected, abs=1e-4)


def test_lessons_share_the_weight_of_the_objective():
    question = exploration((2, 2), "cw", (proven_draft(0, 5), proven_draft(1, 10)))
    batch = assembled([question], config())
    weights = [spec.nll_weight * spec.completion_tokens for spec in batch.minibatches[0] if spec.nll_weight]
    assert weights == pytest.approx([0.5, 0.5])


def test_nll_per_question_gives_every_question_the_same_weight():
    cfg = config()
    first = lessons_of(exploration((2, 2), "cw", (proven_draft(0, 5), proven_draft(1, 10)), "A"), cfg.mel)
    second = tuple(replace(one, question_id="other") for one in lessons_of(QUESTIONS[0], cfg.mel))
    per_question = lesson_specs([*first, *second], 2.0, "question")
    assert [s.nll_weight * s.completion_tokens for s in per_question] == pytest.approx([0.5, 0.5, 1.0])
    per_experience = lesson_specs([*first, *second], 2.0, "experience")
    assert [s.nll_weight * s.completion_tokens for s in per_experience] == pytest.approx([2 / 3] * 3)


def test_past_lessons_have_a_weight_of_their_own():
    cfg = config()
    past = lessons_of(QUESTIONS[0], cfg.mel) * 2
    batch = assemble(QUESTIONS, Lessons([(), ()], 1.0, past, 0.3), cfg)
    weights = [s.nll_weight * s.completion_tokens for s in batch.minibatches[0] if s.is_experience]
    assert weights == pytest.approx([0.15, 0.15])


def kinds(step):
    (row,) = step.shards
    return [[spec.is_experience for spec in microbatch] for microbatch in row]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), [([[True, False, False]], None, None, "policy", 1.0)]),
        (("mel.combination=balanced", "mel.balance=0.2"), [([[False, False], [True]], 1, 0.2, "policy", 1.0)]),
        (("mel.combination=separate", "mel.weight=0.5"),
         [([[False, False]], None, None, "policy", 1.0), ([[True]], None, None, "experience", 0.5)]),
    ],
)  # fmt: skip
def test_how_the_two_objectives_combine(overrides, expected):
    cfg = config("grpo", *overrides)
    batch = assembled(QUESTIONS, cfg)
    steps = optimizer_steps(batch.minibatches, cfg.mel, cfg.mel.weight, 1, 4096)
    found = [(kinds(s), s.experience_from, s.balance, s.optimizer, s.lr_factor) for s in steps]
    assert found == expected
    # the weight is applied once: in the loss where the two are added, else elsewhere
    (nll,) = [s.nll_weight * s.completion_tokens for s in batch.minibatches[0] if s.is_experience]
    assert nll == pytest.approx(1.0)


def test_nothing_is_balanced_against_nothing():
    cfg = config("grpo", "mel.combination=balanced")
    past = Lessons([(), ()], 1.0, lessons_of(QUESTIONS[0], cfg.mel), 0.5)
    batch = assemble([exploration((2, 2), "cc"), exploration((2, 2), "ww")], past, cfg)
    assert (batch.minibatches, batch.skipped_minibatches) == ((), 1)


def test_separate_steps_are_compared_when_asked():
    cfg = config("grpo", "mel.combination=separate")
    steps = optimizer_steps(assembled(QUESTIONS, cfg).minibatches, cfg.mel, 1.0, 1, 4096, is_split_due=True)
    assert [(step.optimizer, step.is_compared) for step in steps] == [("policy", True), ("experience", True)]


def test_gradients_can_be_told_apart_when_asked():
    cfg = config()
    (step,) = optimizer_steps(assembled(QUESTIONS, cfg).minibatches, cfg.mel, 1.0, 1, 4096, is_split_due=True)
    assert (step.experience_from, step.balance) == (1, None)
    assert kinds(step) == [[False, False], [True]]


def test_verifier_failures_and_truncation_have_their_own_fate():
    cut = exploration((2, 2), "cw")
    cut = replace(cut, group=replace(cut.group, facts=group((2, 2), finish="length").facts()))
    batch = assembled([exploration((2, 2, 2, 2), "cwte"), cut], config("grpo", "algorithm.mask_truncated=true"))
    assert batch.ledger.trajectories == {
        TrajectoryFate.TRAINED: 2,
        TrajectoryFate.VERIFIER_TIMEOUT: 1,
        TrajectoryFate.VERIFIER_ERROR: 1,
        TrajectoryFate.TRUNCATED: 2,
    }


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name not in ("reinforce_pp", "rft")])
def test_a_step_without_signal_is_skipped(algorithm):
    batch = assembled([exploration((2, 2), "cc"), exploration((2, 2), "ww")], config(algorithm))
    assert batch.minibatches == ()
    assert batch.skipped_minibatches == 1


def test_minibatches_normalise_on_their_own():
    questions = [exploration((2, 2), "cw", ref="A"), exploration((2, 2), "cw", ref="B")]
    batch = assembled(questions, config("grpo", "algorithm.minibatches=2"))
    assert [[spec.ref for spec in m] for m in batch.minibatches] == [["A", "A"], ["B", "B"]]
    assert all(spec.pg_weight == pytest.approx(1 / 4) for m in batch.minibatches for spec in m)


def test_what_dynamic_sampling_threw_away_is_in_the_ledger_alone():
    kept, thrown = exploration((2, 2), "cw", ref="A"), exploration((2, 2, 2), "ccc", ref="B")
    batch = assemble([kept], Lessons(), config(), filtered=[thrown])
    assert batch.ledger.trajectories == {TrajectoryFate.TRAINED: 2, TrajectoryFate.FILTERED: 3}
    assert {spec.ref for spec in batch.minibatches[0]} == {"A"}
    assert batch.minibatches[0][0].pg_weight == pytest.approx(1 / (2 * 2))


@pytest.mark.parametrize(
    ("outcomes", "needed", "fate"),
    [
        ("c", 1, DraftFate.TRAINED),
        ("w", 1, DraftFate.REPLAY_FAILED),
        ("n", 1, DraftFate.REPLAY_FAILED),
        ("t", 1, DraftFate.REPLAY_UNVERIFIED),
        ("cw", 1, DraftFate.TRAINED),
        ("cw", 2, DraftFate.REPLAY_FAILED),
        ("ct", 2, DraftFate.REPLAY_UNVERIFIED),
        ("cc", 2, DraftFate.TRAINED),
    ],
)
def test_keep_rule(outcomes, needed, fate):
    parsed = draft_ticket()
    replay = ReplayTicket(parsed, ticket((3,) * len(outcomes)))
    (judged,) = proven([parsed], [replay], [verdict(*outcomes)], needed)
    assert judged.fate is fate
    assert judged.is_lesson is (fate is DraftFate.TRAINED)


def test_rejected_drafts_keep_their_reason():
    states = [DraftState.PARSE_FAILURE, DraftState.LEAKED_ANSWER, DraftState.TRUNCATED, DraftState.CONTEXT_TOO_LONG]
    judged = proven([draft_ticket(state, index) for index, state in enumerate(states)], [], [], 1)
    assert [one.fate.value for one in judged] == [state.value for state in states]
