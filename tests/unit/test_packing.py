"""The invariants that rl/packing.py lists, under random lengths; and that sharding keeps weights global."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mel_ray.records import SequenceKind, SequenceSpec
from mel_ray.policy.batch import shard
from mel_ray.policy.packing import pack

lengths_strategy = st.lists(st.integers(1, 300), min_size=1, max_size=80)


@given(lengths_strategy, st.integers(1, 9), st.integers(16, 1000))
def test_invariants(lengths, ranks, budget):
    plan = pack(lengths, ranks, budget)
    counts = {len(row) for row in plan.microbatches}
    assert counts == {plan.count}  # 2: equal work
    assert all(members for row in plan.microbatches for members in row)  # 2: none empty
    planned = Counter(
        index
        for rank, row in enumerate(plan.microbatches)
        for k, members in enumerate(row)
        if (rank, k) not in plan.fillers
        for index in members
    )
    assert planned == Counter(range(len(lengths)))  # 1: exactly once
    for row in plan.microbatches:
        for members in row:
            assert len(members) == 1 or len(members) * max(lengths[i] for i in members) <= budget  # 3
    if plan.fillers:  # 1: only where nothing is left to split
        assert len(plan.fillers) < ranks
        assert all(len(members) == 1 for row in plan.microbatches for members in row)


def test_neighbours_in_length_share_a_microbatch():
    plan = pack([100, 10, 100, 10, 10, 10], 1, 200)
    assert sorted(map(sorted, plan.microbatches[0])) == [[0, 2], [1, 3, 4, 5]]
    assert plan.padded_tokens == 240  # no padding at all


def test_nothing_to_pack():
    with pytest.raises(ValueError):
        pack([], 2, 100)


@given(st.integers(1, 5), st.integers(1, 8))
def test_fillers_carry_no_weight(sequences, ranks):
    specs = [SequenceSpec(SequenceKind.TRAJECTORY, "r", i, 4, 4, 1.0, 0.5, 0.25) for i in range(sequences)]
    shards = shard(specs, ranks, 64)
    everything = [spec for row in shards for microbatch in row for spec in microbatch]
    assert sum(spec.pg_weight for spec in everything) == pytest.approx(0.5 * sequences)
    assert sum(spec.nll_weight for spec in everything) == pytest.approx(0.25 * sequences)
    assert {spec.index for spec in everything if spec.pg_weight} == set(range(sequences))
