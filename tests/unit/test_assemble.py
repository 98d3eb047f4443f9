"""rl/assemble.py: per-token weights on a worked example, fates, mini-batches."""

import pytest

from mel_ray.mel.replay import proven
from mel_ray.records import DraftFate, DraftState, SequenceKind, TrajectoryFate
from mel_ray.records.exploration import JudgedDraft
from mel_ray.rl.assemble import AssemblySettings, assemble
from tests.unit.builders import draft_ticket, exploration, group, ticket, verdict

SETTINGS = AssemblySettings("seq_mean_token_mean", 1e-6, 8, 1, 1.0, False)


def lesson(index=0, length=5):
    return JudgedDraft(draft_ticket(index=index, length=length), DraftFate.TRAINED)


def test_worked_example_of_grpo_with_meta_experience():
    # question A is mixed: lengths 2 and 4, one lesson of 5 tokens; question B is all wrong: no signal
    batch = assemble([exploration((2, 4), "cw", (lesson(),), "A"), exploration((3, 3), "ww", ref="B")], SETTINGS)
    (specs,) = batch.minibatches
    right, wrong, experience = specs
    assert (right.ref, right.index, wrong.index) == ("A", 0, 1)
    assert right.pg_weight == pytest.approx(1 / (4 * 2))  # 4 trajectories in the batch, 2 tokens in this one
    assert wrong.pg_weight == pytest.approx(1 / (4 * 4))
    assert right.advantage == pytest.approx(0.7071, abs=1e-4)  # 0.5 / Bessel std 0.7071
    assert wrong.advantage == pytest.approx(-0.7071, abs=1e-4)
    assert experience.kind is SequenceKind.EXPERIENCE
    assert (experience.pg_weight, experience.nll_weight) == (0, pytest.approx(1 / 5))
    assert batch.ledger.trajectories == {TrajectoryFate.TRAINED: 2, TrajectoryFate.NO_SIGNAL: 2}
    assert batch.ledger.is_balanced


def test_lessons_share_the_weight_of_the_objective():
    batch = assemble([exploration((2, 2), "cw", (lesson(0, 5), lesson(1, 10)))], SETTINGS)
    weights = [spec.nll_weight * spec.completion_tokens for spec in batch.minibatches[0] if spec.nll_weight]
    assert weights == pytest.approx([0.5, 0.5])


def test_verifier_failures_and_truncation_have_their_own_fate():
    settings = AssemblySettings("token_mean", 1e-6, 8, 1, 1.0, True)
    cut = exploration((2, 2), "cw")
    cut = type(cut)(type(cut.group)("r", group((2, 2), finish="length").facts()), cut.verdict)
    batch = assemble([exploration((2, 2, 2, 2), "cwte"), cut], settings)
    assert batch.ledger.trajectories == {
        TrajectoryFate.TRAINED: 2,
        TrajectoryFate.VERIFIER_TIMEOUT: 1,
        TrajectoryFate.VERIFIER_ERROR: 1,
        TrajectoryFate.TRUNCATED: 2,
    }


def test_a_step_without_signal_is_skipped():
    batch = assemble([exploration((2, 2), "cc"), exploration((2, 2), "ww")], SETTINGS)
    assert batch.minibatches == ()
    assert batch.skipped_minibatches == 1


def test_minibatches_normalise_on_their_own():
    settings = AssemblySettings("seq_mean_token_mean", 1e-6, 8, 2, 1.0, False)
    questions = [exploration((2, 2), "cw", ref="A"), exploration((2, 2), "cw", ref="B")]
    batch = assemble(questions, settings)
    assert [[spec.ref for spec in m] for m in batch.minibatches] == [["A", "A"], ["B", "B"]]
    assert all(spec.pg_weight == pytest.approx(1 / 4) for m in batch.minibatches for spec in m)


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
    from mel_ray.records.exploration import ReplayTicket

    parsed = draft_ticket()
    replay = ReplayTicket(parsed, ticket((3,) * len(outcomes)))
    (judged,) = proven([parsed], [replay], [verdict(*outcomes)], needed)
    assert judged.fate is fate
    assert judged.is_lesson is (fate is DraftFate.TRAINED)


def test_rejected_drafts_keep_their_reason():
    states = [DraftState.PARSE_FAILURE, DraftState.LEAKED_ANSWER, DraftState.TRUNCATED, DraftState.CONTEXT_TOO_LONG]
    judged = proven([draft_ticket(state, index) for index, state in enumerate(states)], [], [], 1)
    assert [one.fate.value for one in judged] == [state.value for state in states]
