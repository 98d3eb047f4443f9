"""Tokens know their origin: what is counted, weighed, packed and trained goes by the mask alone (several turns, new
weights in the middle of a sequence)."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mel_ray.policy.batch import rows_in, shard
from mel_ray.policy.loss import joint_loss
from mel_ray.policy.model import collate
from mel_ray.policy.registry import AGGREGATIONS
from mel_ray.policy.rows import decide, rows_of, score, weigh_attempts
from mel_ray.policy.sequences import train_sequence
from mel_ray.records.ledger import TrajectoryFate
from mel_ray.records.question import Question, Truth
from mel_ray.records.row import rows_of_group
from mel_ray.records.step import LossSettings
from mel_ray.records.trajectory import Group, Prompt
from tests.unit.builders import judged, prompt, small_config, turns, with_options
from tests.unit.toy_model import toy_policy

CPU = torch.device("cpu")
CONFIG = small_config()
MASKS = st.lists(st.booleans(), min_size=1, max_size=8)


@st.composite
def groups(draw):
    """A mixed group whose trajectories have several turns and were sampled by weights that grew newer on the way."""
    members = []
    for seed, mask in enumerate(draw(st.lists(MASKS, min_size=2, max_size=4))):
        newer = draw(st.integers(0, len(mask)))
        members.append(turns(mask, [7] * newer + [8] * (len(mask) - newer), seed))
    return Group(Prompt(Question("1 + 1?", Truth("2")), [3, 1, 4][: draw(st.integers(1, 3))]), tuple(members))


def attempts_of(group):
    letters = "cw" * len(group.trajectories)
    rows = judged(rows_of_group(group), letters[: len(group.trajectories)])
    return [replace(row, ref="group") for row in rows]


def trained_rows(group, **options):
    cfg = with_options(CONFIG, **options)
    rows = decide(score(rows_of([tuple(attempts_of(group))]), cfg.algorithm, 8), cfg.algorithm)
    return rows, weigh_attempts(rows, cfg.algorithm, 8)


@given(groups())
def test_a_row_counts_what_the_mask_trains_and_spans_all_versions(group):
    for row, one in zip(rows_of_group(group), group.trajectories, strict=True):
        assert row.tokens == len(one.token_ids)
        assert row.trained_tokens == one.mask.sum()
        assert row.versions == (one.versions.min(), one.versions.max())
        assert row.length == len(group.prompt.token_ids) + row.tokens


@given(groups(), st.sampled_from(list(AGGREGATIONS)))
def test_weights_are_those_of_the_trained_tokens_alone(group, aggregation):
    rows, trained = trained_rows(group, algorithm__aggregation=aggregation)
    sizes = [int(one.mask.sum()) for one in group.trajectories]
    expected = AGGREGATIONS[aggregation](sizes, 8)
    assert {row.index for row in trained} == {row.index for row in rows if sizes[row.index]}
    for row in trained:
        assert row.pg_weight == pytest.approx(expected[row.index])
        sequence = train_sequence(row, {"group": group})
        assert sequence.pg_weight.sum() == pytest.approx(row.pg_weight * sizes[row.index], rel=1e-5)
    silent = [row.fate for row in rows if not sizes[row.index]]
    assert silent == [TrajectoryFate.NO_SIGNAL] * len(silent)


@given(groups(), st.integers(1, 3), st.integers(1, 40))
def test_packing_goes_by_all_tokens_since_all_are_computed(group, ranks, budget):
    rows = attempts_of(group)
    for rank in shard(rows, ranks, budget):
        for microbatch in rank:
            sequences = [train_sequence(row, {"group": group}) for row in microbatch]
            assert [len(one.token_ids) for one in sequences] == [row.length for row in microbatch]
            assert len(microbatch) == 1 or collate(sequences, CPU).ids.numel() <= budget
    assert {row.index for row in rows_in(shard(rows, ranks, budget))} == {row.index for row in rows}


@given(groups(), st.data())
def test_a_sequence_holds_every_token_and_the_arrays_of_the_trained_ones(group, data):
    row = data.draw(st.sampled_from(attempts_of(group)))
    one, context = group.trajectories[row.index], len(group.prompt.token_ids)
    credit = np.arange(row.trained_tokens, dtype=np.float32)
    sequence = train_sequence(replace(row, credit=credit, pg_weight=0.5), {"group": group})
    assert sequence.token_ids.tolist() == [*group.prompt.token_ids, *one.token_ids]
    assert sequence.mask.tolist() == [False] * context + one.mask.tolist()
    assert sequence.advantages.tolist() == credit.tolist()
    assert sequence.sampled_logprobs.tolist() == one.logprobs[one.mask].tolist()
    assert sequence.versions.tolist() == one.versions[one.mask].tolist()
    assert collate([sequence], CPU).versions.tolist() == sequence.versions.tolist()
    assert sequence.pg_weight.tolist() == [0.5] * row.trained_tokens


@given(MASKS, st.data())
def test_within_a_span_too_only_what_the_policy_sampled_is_trained(mask, data):
    first = data.draw(st.integers(0, len(mask)))
    end = data.draw(st.integers(first, len(mask)))
    record = Group(prompt(tokens=2), (turns(mask),))
    (row,) = rows_of_group(record)
    sequence = train_sequence(replace(row, ref="r", span=(first, end), nll_weight=0.1), {"r": record})
    assert np.flatnonzero(sequence.mask).tolist() == [2 + t for t in range(first, end) if mask[t]]
    assert len(sequence.nll_weight) == sum(mask[first:end])


def test_a_credit_of_another_length_than_the_mask_is_refused():
    record = Group(prompt(), (turns([1, 0, 1, 1]),))
    (row,) = rows_of_group(record)
    with pytest.raises(ValueError):
        train_sequence(replace(row, ref="r", credit=np.zeros(4, np.float32)), {"r": record})


def loss_of(sequences, loss):
    """The joint loss of a microbatch and its gradient by parameter."""
    model = toy_policy()
    tokens = collate(sequences, CPU)
    value, _ = joint_loss(*model(tokens.ids, tokens.predicts), tokens, loss)
    value.backward()
    return value.item(), torch.cat([p.grad.flatten() for p in model.parameters()])


def loss_by_hand(sequences, loss):
    """Token by token: - w min(rho A, clip(rho) A) - v logp, for what the mask trains."""
    model = toy_policy()
    total, gradient = 0.0, torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    for one in sequences:
        numbers = iter(range(len(one.pg_weight)))
        for position in np.flatnonzero(one.mask):
            model.zero_grad()
            ids = torch.tensor(one.token_ids[None, : position + 1].astype("int64"))
            last = torch.zeros((1, int(position)), dtype=torch.bool)
            last[0, -1] = True
            logprob = model(ids, last)[0][0]
            n = next(numbers)
            old = logprob.item() if one.old_logprobs is None else float(one.old_logprobs[n])
            ratio, advantage = (logprob - old).exp(), float(one.advantages[n])
            low, high = 1 - loss.clip_low, 1 + loss.clip_high
            bounded = min(max(ratio.item(), low), high) * advantage
            objective = ratio * advantage if ratio.item() * advantage <= bounded else logprob * 0 + bounded
            value = -float(one.pg_weight[n]) * objective - float(one.nll_weight[n]) * logprob
            value.backward()
            total += value.item()
            gradient += torch.cat([p.grad.flatten() for p in model.parameters()])
    return total, gradient


@settings(max_examples=25)
@given(groups(), st.booleans(), st.integers(0, 10**6))
def test_the_loss_of_masked_trajectories_is_the_sum_over_trained_tokens_by_hand(group, has_old, seed):
    rng = np.random.default_rng(seed)
    sequences = []
    for number, row in enumerate(attempts_of(group)):
        count, is_lesson = row.trained_tokens, number % 2
        weights = {"nll_weight": 0.3} if is_lesson else {"pg_weight": 0.2}
        old = rng.normal(math.log(1 / 11), 0.3, count).astype(np.float32) if has_old else None
        credit = rng.normal(0, 1, count).astype(np.float32)
        made = replace(row, credit=credit, old_logprobs=old, **weights)
        sequences.append(train_sequence(made, {"group": group}))
    value, gradient = loss_of(sequences, LossSettings())
    by_hand, gradient_by_hand = loss_by_hand(sequences, LossSettings())
    assert value == pytest.approx(by_hand, abs=1e-6)
    torch.testing.assert_close(gradient, gradient_by_hand, rtol=1e-5, atol=1e-7)


@settings(max_examples=25)
@given(groups(), st.floats(-1000, 0), st.sampled_from(["token", "sequence"]))
def test_the_logprobs_of_environment_tokens_change_nothing(group, anything, level):
    def changed(one):
        return replace(one, logprobs=np.where(one.mask, one.logprobs, np.float32(anything)))

    other = replace(group, trajectories=tuple(map(changed, group.trajectories)))
    loss = LossSettings(importance_cap=2.0, importance_level=level)
    rows = [replace(row, credit=1.0, pg_weight=0.1) for row in attempts_of(group)]
    values = [loss_of([train_sequence(row, {"group": record}) for row in rows], loss) for record in (group, other)]
    assert values[0][0] == values[1][0]
    assert torch.equal(values[0][1], values[1][1])


def test_a_group_advantage_holds_for_every_trained_token():
    group = Group(prompt(), (turns([1, 0, 1]), turns([1, 1, 0, 1], seed=1)))
    _, trained = trained_rows(group, algorithm__advantage="group_centred")
    advantages = [train_sequence(row, {"group": group}).advantages.tolist() for row in trained]
    assert advantages == [[0.5] * 2, [-0.5] * 3]
