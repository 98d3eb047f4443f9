"""policy/statistics.py and recorder.py: what ranks measure, how it becomes one, and the metrics of it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mel_ray.policy.loss import TokenBatch, joint_loss
from mel_ray.policy.model import collate
from mel_ray.policy.recorder import StepRecorder
from mel_ray.policy.statistics import Max, Same, StepMeasures, Sum, merge_ranks, update_metrics
from mel_ray.records.step import LossSettings, TrainSequence, TrainSettings
from tests.unit.toy_model import toy_policy

CPU = torch.device("cpu")


@pytest.mark.parametrize(("kind", "merged"), [(Sum, 9.0), (Max, 5.0), (Same, 1.0)])
def test_a_measure_knows_how_the_ranks_values_become_one(kind, merged):
    assert kind(1.0).merged([kind(3.0), kind(5.0)]) == kind(merged)
    assert kind(1.0).merged([]) == kind(1.0)


def test_ranks_merge_by_type_and_pool_their_ratios():
    ranks = [
        StepMeasures({"tokens": Sum(n), "mismatch": Max(n), "grad_norm": Same(7.0)}, np.array([n], np.float32))
        for n in (1.0, 2.0, 4.0)
    ]
    merged = merge_ranks(ranks)
    assert merged.measures == {"tokens": Sum(7.0), "mismatch": Max(4.0), "grad_norm": Same(7.0)}
    assert merged.log_ratios.tolist() == [1, 2, 4]


def test_a_rank_may_lack_what_it_had_no_tokens_for():
    ratios = [{0: np.array([1], np.float32)}, {0: np.array([2], np.float32), 3: np.array([4], np.float32)}, {}]
    measures = [{"tokens/0": Sum(1.0)}, {"tokens/0": Sum(2.0), "tokens/3": Sum(4.0), "oldest": Max(3.0)}, {}]
    none = np.zeros(0, np.float32)
    merged = merge_ranks([StepMeasures(m, none, r) for m, r in zip(measures, ratios, strict=True)])
    assert merged.measures == {"tokens/0": Sum(3.0), "tokens/3": Sum(4.0), "oldest": Max(3.0)}
    assert {level: found.tolist() for level, found in merged.by_staleness.items()} == {0: [1, 2], 3: [4]}


def sequence(seed, kind, length=3, prompt=2):
    rng = np.random.default_rng(seed)
    none, weight = np.zeros(length), np.full(length, 0.1)
    return TrainSequence(
        token_ids=rng.integers(0, 11, prompt + length),
        mask=[False] * prompt + [True] * length,
        pg_weight=weight if kind == "policy" else none,
        nll_weight=weight if kind == "lesson" else none,
        advantages=rng.normal(0, 1, length),
        sampled_logprobs=rng.normal(-2.4, 0.3, length),
        old_logprobs=rng.normal(-2.4, 0.3, length) if kind == "policy" else None,
        versions=rng.integers(20, 35, length),
    )


def measured(microbatches, version=None):
    recorder, model = StepRecorder(TrainSettings(0.1, version=version)), toy_policy()
    for microbatch in microbatches:
        tokens = collate(microbatch, CPU)
        with torch.no_grad():
            logprobs, entropy = model(tokens.ids, tokens.predicts)
            _, parts = joint_loss(logprobs, entropy, tokens, LossSettings())
        recorder.add(tokens, logprobs, entropy, parts, microbatch)
    return recorder.result()


SEQUENCES = st.lists(
    st.builds(sequence, st.integers(0, 99), st.sampled_from(["policy", "lesson", "filler"]), st.integers(1, 5)),
    min_size=2,
    max_size=6,
)


@settings(max_examples=25)
@given(SEQUENCES, st.data())
def test_what_is_measured_does_not_depend_on_the_split_into_microbatches_or_ranks(made, data):
    cut, version = data.draw(st.integers(1, len(made) - 1)), data.draw(st.sampled_from([None, 34]))
    whole = measured([made], version)
    parts = measured([made[:cut], made[cut:]], version)
    ranks = merge_ranks([measured([made[:cut]], version), measured([made[cut:]], version)])
    for other in (parts, ranks):
        assert other.measures.keys() == whole.measures.keys()
        for name in whole.measures.keys() - {"padded_tokens"}:  # how much is padded does
            assert other[name] == pytest.approx(whole[name], abs=1e-5), name
            assert type(other.measures[name]) is type(whole.measures[name])
        assert sorted(other.log_ratios) == pytest.approx(sorted(whole.log_ratios), abs=1e-6)
        assert other.by_staleness.keys() == whole.by_staleness.keys()
        for level, ratios in whole.by_staleness.items():
            assert sorted(other.by_staleness[level]) == pytest.approx(sorted(ratios), abs=1e-6)


def test_only_tokens_with_a_weight_are_measured():
    found = measured([[sequence(1, "policy", 3), sequence(2, "lesson", 4), sequence(3, "filler", 5)]])
    assert (found["policy_tokens"], found["lesson_tokens"]) == (3, 4)
    assert found["tokens"] == 3 + 4 + 5 + 3 * 2  # prompts included: they are computed
    assert found["padded_tokens"] == 3 * (5 + 2)
    assert len(found.log_ratios) == 3


def test_a_step_without_a_kind_of_token_has_no_metric_of_that_kind():
    lessons = update_metrics([measured([[sequence(1, "lesson")]])], 1)
    assert {"loss/nll", "mel/nll", "loss/joint"} <= lessons.keys()
    assert not {"loss/policy", "policy/entropy", "mismatch/kl", "policy/ratio_p50"} & lessons.keys()
    attempts = update_metrics([measured([[sequence(1, "policy")]])], 1)
    assert {"loss/policy", "policy/entropy", "mismatch/kl", "policy/ratio_p50"} <= attempts.keys()
    assert not {"loss/nll", "mel/nll"} & attempts.keys()
    assert update_metrics([], 0) == {"batch/optimizer_steps": 0.0}


def test_metrics_of_an_update_average_over_the_steps_that_have_them_and_sum_tokens():
    steps = [measured([[sequence(1, "policy", 3)]]), measured([[sequence(2, "policy", 5)]]),
             measured([[sequence(3, "lesson", 4)]])]  # fmt: skip
    found = update_metrics(steps, 3)
    assert found["loss/policy"] == pytest.approx((steps[0]["policy_loss"] + steps[1]["policy_loss"]) / 2)
    assert found["mel/nll"] == pytest.approx(steps[2]["lesson_nll"] / 4)  # nats per trained token
    assert found["batch/signal_tokens"] == 12
    assert found["tokens/trained"] == 12 + 3 * 2
    assert found["batch/optimizer_steps"] == 3


def test_norms_become_metrics_where_they_were_measured():
    (step,) = [measured([[sequence(1, "policy")]])]
    with_norms = StepMeasures({**step.measures, "grad_norm": Same(2.0), "gradient_cosine": Same(-0.5)})
    found = update_metrics([with_norms], 1)
    assert (found["policy/grad_norm"], found["gradient/cosine"]) == (2.0, -0.5)
    assert "gradient/policy_norm" not in found


def metrics_by_hand(
    sampled, versions, settings, logprobs=-1.0, old=None, is_first=True, advantages=1.0, ranks=1
) -> dict[str, float]:
    """The metrics of an optimizer step on one policy token a row; `logprobs` are the current ones of all tokens."""

    def dense(values) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.float64).expand(count).clone()

    count = len(sampled)
    tokens = TokenBatch(
        ids=torch.zeros(count, 2),
        predicts=torch.ones(count, 1, dtype=torch.bool),
        rows=torch.arange(count),
        pg_weight=dense(1.0),
        nll_weight=dense(0.0),
        advantages=dense(advantages),
        sampled_logprobs=dense(sampled),
        old_logprobs=None if old is None else dense(old),
        versions=None if versions is None else torch.tensor(versions, dtype=torch.int32),
    )
    found = []
    for rank in range(ranks):
        recorder, own = StepRecorder(settings, is_first), torch.arange(count) % ranks == rank
        part = replace(tokens.chosen(dense(logprobs), own), ids=tokens.ids[own], rows=torch.arange(int(own.sum())))
        part = replace(part, old_logprobs=None if old is None else part.old_logprobs)
        _, parts = joint_loss(dense(logprobs)[own], torch.zeros(len(part.rows)), part, settings.loss)
        recorder.add(part, dense(logprobs)[own], torch.zeros(len(part.rows)), parts, [])
        found.append(recorder.result())
    return update_metrics([merge_ranks(found)], 1)


def prefixed(metrics, *prefixes):
    return {name: value for name, value in metrics.items() if name.startswith(prefixes)}


STALE = TrainSettings(0.1, version=12)


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_staleness_by_hand(ranks):
    # staleness 0, 0, 1, 3, 9 and 12; the policy before the update says -1
    sampled = [-1.0, -1.0, -1.5, -3.0, -0.5, -0.75]
    found = metrics_by_hand(sampled, [12, 12, 11, 9, 3, 0], STALE, ranks=ranks)
    expected = {"staleness/mean": 25 / 6, "staleness/max": 12}
    for label, share, low, high in (
        ("0", 1 / 3, 0.0, 0.0),
        ("1", 1 / 6, 0.5, 0.5),
        ("3", 1 / 6, 2.0, 2.0),
        # two log ratios, -0.5 and -0.25: 1%, 50% and 99% of the way
        ("9+", 1 / 3, -0.4975, -0.2525),
    ):
        expected |= {f"staleness/share/{label}": share, f"staleness/clip_share/{label}": 0.0}
        quantiles = {"p01": low, "p50": (low + high) / 2, "p99": high}
        expected |= {f"staleness/ratio_{name}/{label}": math.exp(value) for name, value in quantiles.items()}
    assert prefixed(found, "staleness/") == pytest.approx(expected)


def test_clipping_by_staleness_and_the_ratio_of_the_loss():
    settings = replace(STALE, loss=LossSettings(denominator="sampled"))
    # ratios e^0.5, e^0.1 and e^-0.5 of which the first and, with a negative advantage, the last are clipped
    sampled, versions = [-1.5, -1.1, -0.5, -1.0], [11, 11, 10, 12]
    found = metrics_by_hand(sampled, versions, settings, advantages=[1.0, 1.0, -1.0, 1.0])
    clipped = prefixed(found, "staleness/clip_share")
    assert clipped == {"staleness/clip_share/0": 0, "staleness/clip_share/1": 0.5, "staleness/clip_share/2": 1}
    assert found["policy/clip_share"] == 0.5
    assert found["policy/ratio_p50"] == pytest.approx(math.exp(0.05))  # between 1 and e^0.1


def test_on_policy_staleness_is_nothing_but_its_mean_and_maximum():
    fresh = metrics_by_hand([-1.0, -1.0], [12, 12], STALE)
    assert prefixed(fresh, "staleness/", "importance/") == {"staleness/mean": 0, "staleness/max": 0}
    unasked = metrics_by_hand([-1.0, -1.0], [11, 11], TrainSettings(0.1))
    assert not prefixed(unasked, "staleness/", "importance/")


@pytest.mark.parametrize(("floor", "share"), [(None, 0.25), (0.5, 0.5)])
def test_the_share_of_importance_weights_outside_their_bounds(floor, share):
    settings = replace(STALE, loss=LossSettings(importance_cap=2.0, importance_floor=floor))
    found = metrics_by_hand([-1.0, -3.0, 0.0, -1.5], [11] * 4, settings)  # ratios 1, e^2, e^-1, e^0.5
    assert found["importance/outside_share"] == share


def test_mismatch_is_about_tokens_of_the_same_weights_alone():
    # the stale token's difference of 5 is the policy's, not the engine's
    found = metrics_by_hand([-1.0, -2.0, -6.0], [12, 12, 11], STALE)
    assert found["mismatch/max"] == 1.0
    assert found["mismatch/kl"] == pytest.approx((math.e - 2) / 2)  # exp(d) - 1 - d at d = 0 and 1
    assert found["mismatch/outside_share"] == 0.5
    assert not prefixed(metrics_by_hand([-1.0, -2.0], [11, 10], STALE), "mismatch/")
    unknown = metrics_by_hand([-1.0, -2.0, -6.0], None, TrainSettings(0.1))
    assert unknown["mismatch/max"] == 5.0


@pytest.mark.parametrize("denominator", ["proximal", "sampled"])
def test_what_the_policy_said_before_the_update_is_not_what_it_says_after_a_step(denominator):
    settings = replace(STALE, loss=LossSettings(denominator=denominator))
    sampled, versions = [-2.0, -3.0], [12, 11]
    names = {"mismatch/max", "staleness/ratio_p50/1", "staleness/share/1"}
    # scored before the first step: -1.5
    scored = metrics_by_hand(sampled, versions, settings, old=-1.5, is_first=False)
    assert [scored[name] for name in sorted(names)] == pytest.approx([0.5, math.exp(1.5), 0.5])
    # not scored: known in the first step, then no longer
    first = metrics_by_hand(sampled, versions, settings)
    assert [first[name] for name in sorted(names)] == pytest.approx([1.0, math.exp(2.0), 0.5])
    later = metrics_by_hand(sampled, versions, settings, is_first=False)
    assert names & later.keys() == {"staleness/share/1"}
