"""Lessons as guidance: what joins a question's group, what it is worth there, and what the loss makes of it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mel_ray.mel.guidance import joining
from mel_ray.mel.measures import bin_of, lesson_metrics
from mel_ray.mel.replay import prove
from mel_ray.policy.batch import optimizer_steps, settle_fates
from mel_ray.policy.loss import TokenBatch, joint_loss
from mel_ray.policy.recorder import StepRecorder
from mel_ray.policy.rows import Lessons, decide, rows_of, score, weigh, weigh_lessons
from mel_ray.policy.sequences import train_sequence
from mel_ray.policy.statistics import update_metrics
from mel_ray.records.ledger import DraftFate, TrajectoryFate
from mel_ray.records.row import RowKind, attempts, count_fates, drafts, has_signal, is_mixed
from mel_ray.records.step import LossSettings, TrainSettings
from tests.unit.builders import (
    config_of,
    draft_row,
    exploration,
    group,
    prompt,
    proven,
    rows_of_record,
    small_config,
)

AUGMENT = ("mel.credit=augment", "mel.write=both")


def mel(*overrides):
    return config_of(*overrides).mel


def explored(letters: str, replays: str, *overrides: str):
    """A question's rows after its only draft was replayed."""
    settings = mel(*AUGMENT, *overrides)
    tried, drafted = exploration((4,) * len(letters), letters), (proven(replays=replays),)
    return (*tried, *drafted, *joining(tried, drafted, settings))


def trained(rows, *overrides):
    """The rows of a batch of one question, with credit, fate and weight."""
    config = small_config(*AUGMENT, *overrides)
    rows = decide(score(rows_of([rows]), config.algorithm, 8), config.algorithm)
    minibatches = weigh(rows, Lessons(), config)
    steps = optimizer_steps(minibatches, config.mel, 0.0, 1, 1000)
    return settle_fates(rows, steps), [row for one in minibatches for row in one]


def test_nothing_joins_unless_asked():
    assert joining(exploration((4, 4), "cw"), (proven(),), mel()) == ()


def test_replays_join_their_group_as_answers_to_the_bare_question():
    rows = explored("cw", "wc")
    joined = [row for row in rows if row.is_guided]
    assert [row.verdict.is_correct for row in joined] == [False, True]
    for row in joined:
        assert (row.kind, row.context, row.prompt_tokens) == (RowKind.REPLAY, "group", rows[0].prompt_tokens)
        assert row.is_solution
        assert not row.is_lesson
    assert len(attempts(rows)) == 2


def test_they_are_compared_with_the_attempts():
    """One right of four in all: standardised rewards, and the replay gets the group's only positive advantage."""
    rows, weighed = trained(explored("www", "c"))
    credit = [row.credit for row in rows if row.is_solution]
    deviation = math.sqrt(3) / 4 * math.sqrt(4 / 3)  # with Bessel's correction
    assert credit == pytest.approx([-0.25 / deviation] * 3 + [0.75 / deviation], rel=1e-4)
    assert [row.pg_weight * row.tokens for row in weighed] == pytest.approx([1 / 4] * 4)
    assert [row.fate for row in rows if row.is_solution] == [TrajectoryFate.TRAINED] * 4


def test_an_all_wrong_group_that_fails_its_replay_brings_nothing():
    rows, weighed = trained(explored("ww", "w"))
    assert weighed == []
    assert {row.fate for row in rows if row.is_solution} == {TrajectoryFate.NO_SIGNAL}
    assert not has_signal(explored("ww", "w"))


def test_a_replay_that_passes_is_signal_where_reward_was_silent():
    rows = explored("ww", "c")
    assert not is_mixed(rows)  # said of the attempts
    assert has_signal(rows)
    assert has_signal((*exploration((4, 4), "ww"), replace(proven(), lends_credit=True)))
    assert not has_signal((*exploration((4, 4), "ww"), proven()))


def test_the_ledger_counts_what_joined_and_what_guided():
    rows, _ = trained(explored("cw", "wc"))
    counted = count_fates(rows)
    assert counted.sampled_trajectories == counted.trajectories[TrajectoryFate.TRAINED] == 4
    assert [row.fate for row in drafts(rows)] == [DraftFate.GUIDED]


def test_a_stale_replay_is_left_out():
    config = small_config(*AUGMENT)
    rows = [replace(row, versions=(1, 1)) if row.is_guided else row for row in rows_of([explored("cw", "c")])]
    rows = [replace(row, versions=(5, 5)) if not row.is_guided else row for row in rows]
    decided = decide(score(rows, config.algorithm, 8), config.algorithm, oldest=4)
    assert [row.fate for row in decided if row.is_guided] == [TrajectoryFate.STALE]


def test_the_tokens_of_a_replay_follow_the_bare_question():
    records = {"group": group((4, 4)), "replays": replace(group((3,)), prompt=prompt(tokens=9))}
    (row,) = [row for row in explored("cw", "c") if row.is_guided]
    sequence = train_sequence(replace(row, pg_weight=0.5, credit=1.0), records)
    assert len(sequence.token_ids) == 3 + 3  # three of the question's prompt
    assert sequence.guided.tolist() == [True] * 3
    assert train_sequence(explored("cw", "c")[0], records).guided is None


@pytest.mark.parametrize(
    ("letters", "replays", "min_gain", "gain", "is_kept"),
    [
        ("ww", "c", 0.0, 1.0, True),
        ("cw", "c", 0.0, 0.5, True),
        ("cw", "c", 0.5, 0.5, False),  # it has to exceed it
        ("cw", "cw", 0.0, 0.0, False),
        ("cccw", "cw", 0.0, -0.25, False),
        ("cwt", "c", 0.0, 0.5, True),  # what could not be judged says nothing
    ],
)
def test_what_counts_is_how_much_better_the_replay_is(letters, replays, min_gain, gain, is_kept):
    config = mel("mel.keep=gain")
    base = {"ww": 0.0, "cw": 0.5, "cccw": 0.75, "cwt": 0.5}[letters]
    replayed = rows_of_record(group((3,) * len(replays)), replays, "replays", RowKind.REPLAY)
    (row,) = prove([draft_row()], [replayed], config.min_correct_replays, base, min_gain)
    assert (row.gain, row.base_rate, row.is_proven) == (gain, base, is_kept)
    assert row.fate is (None if is_kept else DraftFate.NO_GAIN)


def test_by_gain_only_proven_replays_join_and_lessons_count_by_it():
    settings = mel(*AUGMENT, "mel.keep=gain")
    failed = replace(proven(replays="w"), is_proven=False, fate=DraftFate.REPLAY_FAILED)
    assert joining(exploration((4, 4), "cw"), (failed,), settings) == ()
    assert len(joining(exploration((4, 4), "cw"), (proven(replays="cw"),), settings)) == 2
    lessons = [replace(proven(index=0), gain=1.0), replace(proven(index=1), gain=0.25)]
    weights = [row.nll_weight for row in weigh_lessons(lessons, 1.0, "experience", is_by_gain=True)]
    assert weights == pytest.approx([1 / 10, 0.25 / 10])
    assert len({row.nll_weight for row in weigh_lessons(lessons, 1.0, "experience")}) == 1


# -- the loss of guided tokens


def tokens(advantages, before, sampled, guided) -> TokenBatch:
    count = len(advantages)
    nothing = {"ids": torch.zeros(0), "predicts": torch.zeros(0)}

    def column(values):
        return torch.tensor(values, dtype=torch.float64)

    return TokenBatch(
        **nothing, rows=torch.arange(count), pg_weight=torch.ones(count), nll_weight=torch.zeros(count),
        advantages=column(advantages), sampled_logprobs=column(sampled), old_logprobs=column(before),
        guided=column(guided),
    )  # fmt: skip


def gradient(batch: TokenBatch, loss: LossSettings) -> list[float]:
    logprobs = batch.old_logprobs.clone().requires_grad_()
    joint_loss(logprobs, torch.zeros_like(logprobs), batch, loss)[0].backward()
    return logprobs.grad.tolist()


@pytest.mark.parametrize(("correction", "weight"), [("none", 1.0), ("ratio", 0.25), ("capped", 0.25)])
def test_a_guided_token_is_weighted_by_the_bare_policys_share(correction, weight):
    batch = tokens([2.0, 2.0], [math.log(0.2), -1.0], [math.log(0.8), -1.0], [1.0, 0.0])
    assert gradient(batch, LossSettings(guided_correction=correction)) == pytest.approx([-2.0 * weight, -2.0])


def test_the_weight_is_capped_on_request():
    batch = tokens([1.0], [math.log(0.9)], [math.log(0.1)], [1.0])
    assert gradient(batch, LossSettings(guided_correction="ratio")) == pytest.approx([-9.0])
    assert gradient(batch, LossSettings(guided_correction="capped", guided_cap=2.0)) == pytest.approx([-2.0])


@pytest.mark.parametrize("loss", [LossSettings(importance_cap=1.5), LossSettings(denominator="sampled")])
def test_what_corrects_for_the_engine_leaves_guided_tokens_alone(loss):
    batch = tokens([1.0, 1.0], [-1.0, -1.0], [-4.0, -1.0], [1.0, 0.0])
    assert gradient(batch, loss) == pytest.approx([-1.0, -1.0])


@pytest.mark.parametrize("seed", range(3))
def test_with_the_ratio_replays_give_the_bare_policys_gradient(seed):
    """Exactly, in expectation over one token: the sum over all tokens of q(a) (p(a) / q(a)) A(a) grad log p(a)."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(7, generator=draw, dtype=torch.float64)
    guide = torch.randn(7, generator=draw, dtype=torch.float64).log_softmax(0)
    advantages = torch.randn(7, generator=draw, dtype=torch.float64)

    def gradient_of(weights, sampled, correction, guided):
        leaf = logits.clone().requires_grad_()
        logprobs = leaf.log_softmax(0)
        batch = replace(
            tokens([0.0] * 7, [0.0] * 7, [0.0] * 7, [guided] * 7),
            pg_weight=weights.detach(), advantages=advantages, sampled_logprobs=sampled.detach(), old_logprobs=None,
        )  # fmt: skip
        joint_loss(logprobs, torch.zeros_like(logprobs), batch, LossSettings(guided_correction=correction))[
            0
        ].backward()
        return leaf.grad

    bare = logits.log_softmax(0)
    on_policy = gradient_of(bare.exp(), bare, "none", 0.0)
    guided = gradient_of(guide.exp(), guide, "ratio", 1.0)
    assert torch.allclose(guided, on_policy, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(gradient_of(guide.exp(), guide, "none", 1.0), on_policy, rtol=1e-2)


def test_guided_tokens_are_measured_and_do_not_count_as_a_mismatch_of_the_engine():
    batch = tokens([1.0] * 3, [math.log(0.2), math.log(0.6), -1.0], [math.log(0.4), math.log(0.2), -1.0], [1, 1, 0])
    logprobs, nothing = batch.old_logprobs, torch.zeros(3)
    recorder = StepRecorder(TrainSettings(lr=0.0))
    parts = {"policy": 0.0, "nll": 0.0, "kl": 0.0, "clipped": nothing, "outside": nothing}
    recorder.add(batch, logprobs, nothing, parts, ())
    metrics = update_metrics([recorder.result()], 1)
    assert metrics["mismatch/max"] == 0.0
    assert metrics["guide/tokens_share"] == pytest.approx(2 / 3)
    assert metrics["guide/ratio_mean"] == pytest.approx((0.5 + 3.0) / 2)
    assert metrics["guide/ratio_max"] == pytest.approx(3.0)
    assert metrics["guide/effective_share"] == pytest.approx(3.5**2 / (2 * (0.25 + 9.0)))
    assert metrics["guide/above_cap_share"] == pytest.approx(0.5)


# -- what lessons were worth


@pytest.mark.parametrize(
    ("rate", "name"), [(0.0, "none"), (0.25, "low"), (0.5, "middle"), (0.75, "high"), (1.0, "high")]
)
def test_bins_of_success(rate, name):
    assert bin_of(rate) == name


def test_metrics_of_lessons():
    kept = replace(proven(replays="c"), base_rate=0.0, gain=1.0, states_rule=True)
    failed = replace(
        proven(index=1, replays="w"), is_proven=False, fate=DraftFate.REPLAY_FAILED, base_rate=0.5, gain=-0.5,
        states_rule=False,
    )  # fmt: skip
    metrics = lesson_metrics([*exploration((4, 4), "cw"), kept, failed])
    assert metrics == {
        "mel/right_rule_share": 1.0, "mel/drafts_right_rule_share": 0.5, "mel/gain": 0.25, "mel/kept_gain": 1.0,
        "mel/replay_pass/none": 1.0, "mel/replay_pass/middle": 0.0, "mel/kept_share/none": 1.0,
        "mel/kept_share/middle": 0.0,
    }  # fmt: skip
    assert lesson_metrics(exploration((4, 4), "cw")) == {}
    assert not np.isnan(list(metrics.values())).any()
