"""policy/statistics.py and recorder.py: what ranks measure, how it becomes one, and the metrics of it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mel_ray.policy.loss import joint_loss
from mel_ray.policy.model import collate
from mel_ray.policy.recorder import StepRecorder
from mel_ray.policy.statistics import Max, Same, StepMeasures, Sum, merge_ranks, update_metrics
from mel_ray.records.step import LossSettings, TrainSequence
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
    )


def measured(microbatches):
    recorder, model = StepRecorder(), toy_policy()
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
    cut = data.draw(st.integers(1, len(made) - 1))
    whole = measured([made])
    parts = measured([made[:cut], made[cut:]])
    ranks = merge_ranks([measured([made[:cut]]), measured([made[cut:]])])
    for other in (parts, ranks):
        assert other.measures.keys() == whole.measures.keys()
        for name in whole.measures.keys() - {"padded_tokens"}:  # how much is padded does
            assert other[name] == pytest.approx(whole[name], abs=1e-5), name
            assert type(other.measures[name]) is type(whole.measures[name])
        assert sorted(other.log_ratios) == pytest.approx(sorted(whole.log_ratios), abs=1e-6)


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
