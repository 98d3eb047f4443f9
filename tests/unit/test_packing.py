"""The invariants that policy/packing.py lists, under random lengths."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
