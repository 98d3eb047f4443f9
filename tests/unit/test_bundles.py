"""config/bundles.py: no engine is split, the ranks lie on as few nodes as possible, and what fits is found."""

from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mel_ray.config.bundles import Bundle, Node, assign, bundles_of
from mel_ray.config.load import compose_config
from mel_ray.config.plan import make_plan
from mel_ray.records.problem import ConfigError
from tests.unit.builders import config_of


def nodes_of(*gpus, cpus=100.0):
    return [Node(f"n{number}", cpus, count) for number, count in enumerate(gpus)]


def bundles(ranks, engines, width, others=0, cpus=1.0):
    return [
        *(Bundle((("rollout", i),), cpus, width) for i in range(engines)),
        *(Bundle((("policy", i),), cpus, 1) for i in range(ranks)),
        *(Bundle((("verifier", i),), cpus, 0) for i in range(others)),
    ]


def load(wanted, found):
    gpus = Counter()
    for bundle, node in zip(wanted, found, strict=True):
        gpus[node.name] += bundle.gpus
    return gpus


def rank_nodes(wanted, found):
    return [node.name for bundle, node in zip(wanted, found, strict=True) if bundle.has_rank]


@pytest.mark.parametrize(
    ("preset", "nodes", "ranks_on"),
    [("1x8", (8,), 1), ("2x8", (8, 8), 1), ("4x8", (8, 8, 8, 8), 2)],
)
def test_the_presets_fit_and_their_ranks_are_packed(preset, nodes, ranks_on):
    wanted = bundles_of(make_plan(config_of(f"cluster={preset}")))
    found = assign(wanted, nodes_of(*nodes))
    assert max(load(wanted, found).values()) <= 8
    names = rank_nodes(wanted, found)
    assert len(set(names)) == ranks_on
    assert names == sorted(names)  # numbered in the order of the nodes


@pytest.mark.parametrize(("preset", "gpus"), [("1x1", 1), ("1x8", 8), ("2x8", 16)])
def test_an_engine_and_a_rank_that_take_turns_have_one_gpu_together(preset, gpus):
    plan = make_plan(compose_config([f"cluster={preset}", "cluster.colocated=true"]))
    assert plan.gpus == gpus
    together = [one for one in bundles_of(plan) if one.gpus]
    assert [one.members for one in together] == [(("rollout", n), ("policy", n)) for n in range(gpus)]
    assert {one.gpus for one in together} == {1}
    nodes = nodes_of(*[min(gpus, 8)] * -(-gpus // 8))
    assert rank_nodes(bundles_of(plan), assign(bundles_of(plan), nodes)) == sorted(
        node.name for node in nodes for _ in range(int(node.gpus))
    )


def test_an_engine_of_four_beside_loose_ranks_is_placed():
    wanted = bundles(ranks=6, engines=2, width=4)
    found = assign(wanted, nodes_of(8, 8))
    assert load(wanted, found) == {"n0": 6, "n1": 8}


def test_ranks_use_what_engines_leave_over_where_one_node_is_not_enough():
    wanted = bundles(ranks=4, engines=2, width=4)
    assert Counter(rank_nodes(wanted, assign(wanted, nodes_of(6, 6)))) == {"n0": 2, "n1": 2}


@pytest.mark.parametrize(
    ("wanted", "nodes", "words"),
    [
        (bundles(1, 2, 4), (8,), "needs 9 GPUs and 8 are free (n0: 8 GPUs, 100 CPUs)"),
        (bundles(2, 3, 4), (7, 7), "3 x 4 GPUs and 1 CPUs"),
        (bundles(1, 1, 1, cpus=60.0), (8,), "needs 120 CPUs and 100 are free"),
        (bundles(1, 0, 1, others=2, cpus=60.0), (1, 1), "each actor must lie on one node, and 1 x 1 GPU and 60 CPUs"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_a_sentence(wanted, nodes, words):
    with pytest.raises(ConfigError) as caught:
        assign(wanted, nodes_of(*nodes))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def fits(ranks, engines, width, gpus):
    """Exhaustively: the fewest nodes with ranks with which everything fits; None if it never does."""
    best = None
    for counts in product(*(range(min(ranks, free) + 1) for free in gpus)):
        room = sum((free - count) // width for free, count in zip(gpus, counts, strict=True))
        if sum(counts) == ranks and room >= engines:
            used = sum(count > 0 for count in counts)
            best = used if best is None else min(best, used)
    return best


@given(
    st.integers(1, 6), st.integers(0, 4), st.integers(1, 4), st.lists(st.integers(0, 8), min_size=1, max_size=4)
)  # fmt: skip
def test_what_fits_is_found_on_the_fewest_nodes(ranks, engines, width, gpus):
    wanted, best = bundles(ranks, engines, width), fits(ranks, engines, width, gpus)
    if best is None:
        with pytest.raises(ConfigError):
            assign(wanted, nodes_of(*gpus))
        return
    found = assign(wanted, nodes_of(*gpus))
    for name, used in load(wanted, found).items():
        assert used <= gpus[int(name[1:])]
    assert len(set(rank_nodes(wanted, found))) == best
