"""actors/placement.py on two raylets that pretend to have eight GPUs each: stub actors where the plan wants them."""

import time
from collections import defaultdict

import pytest
import ray
from ray.cluster_utils import Cluster

from mel_ray.actors.node_checks import check_nodes
from mel_ray.actors.placement import Placement
from mel_ray.config.load import compose_config
from mel_ray.config.plan import Plan, PoolPlan, make_plan
from mel_ray.data.model_folder import on_this_node
from mel_ray.records.problem import ConfigError
from tests.unit.builders import config_of


@pytest.fixture(scope="module")
def two_nodes():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 64, "num_gpus": 8})
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        cluster.add_node(num_cpus=64, num_gpus=8)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@ray.remote
class Stub:
    def where(self):
        context = ray.get_runtime_context()
        return context.get_node_id(), context.get_accelerator_ids()["GPU"]


def started(plan, placement):
    """The node and the GPUs of every actor, by pool."""
    stubs = [
        (pool.name, Stub.options(**placement.options(pool, number)).remote())
        for pool in plan.pools
        for number in range(pool.actors)
    ]
    found = defaultdict(list)
    for (name, _), where in zip(stubs, ray.get([stub.where.remote() for _, stub in stubs], timeout=120), strict=True):
        found[name].append(where)
    for _, stub in stubs:
        ray.kill(stub)
    placement.remove()
    return found


async def test_ranks_fill_one_node_and_every_gpu_serves_one_actor(two_nodes):
    plan = make_plan(config_of("cluster=2x8"))
    placement = Placement(plan)
    await placement.ready(60)
    found = started(plan, placement)
    assert len({node for node, _ in found["policy"]}) == 1
    assert len({node for node, _ in found["rollout"]}) == 1
    gpus = [(node, gpu) for name in ("policy", "rollout") for node, ids in found[name] for gpu in ids]
    assert len(gpus) == len(set(gpus)) == 16
    assert len(found["verifier"]) == 8


async def test_a_rank_and_an_engine_that_take_turns_are_given_the_same_gpu(two_nodes):
    plan = make_plan(compose_config(["cluster=2x8", "cluster.colocated=true"]))
    placement = Placement(plan)
    await placement.ready(60)
    found = started(plan, placement)
    assert found["policy"] == found["rollout"]
    assert len({(node, *gpus) for node, gpus in found["policy"]}) == 16


async def test_no_engine_is_split_beside_loose_ranks(two_nodes):
    plan = make_plan(config_of("cluster=2x8", "cluster.rollout.tensor_parallel=4", "cluster.rollout.engines=2",
                               "cluster.policy.ranks=6"))  # fmt: skip
    placement = Placement(plan)
    await placement.ready(60)
    found = started(plan, placement)
    assert [len(ids) for _, ids in found["rollout"]] == [4, 4]
    assert len({node for node, _ in found["policy"]}) == 1


def test_fragments_that_no_engine_fits_are_refused_at_once(two_nodes):
    plan = make_plan(config_of("cluster=2x8", "cluster.rollout.tensor_parallel=5", "cluster.rollout.engines=3",
                               "cluster.policy.ranks=1"))  # fmt: skip
    before = time.monotonic()
    with pytest.raises(ConfigError, match="each actor must lie on one node, and 3 x 5 GPUs"):
        Placement(plan)
    assert time.monotonic() - before < 5


def test_what_others_hold_is_waited_for_and_then_named(two_nodes):
    other = Stub.options(num_gpus=8).remote()
    node, _ = ray.get(other.where.remote())
    plan = Plan((PoolPlan("policy", "ranks", 9, 1.0, 1),), 1, 1)
    try:
        with pytest.raises(ConfigError, match="needs 9 GPUs and 8 are free"):
            Placement(plan, patience=1.0)
    finally:
        ray.kill(other)
    placement = Placement(plan)
    assert {one.node_id for one in placement.nodes.values()} >= {node}
    placement.remove()


async def test_every_node_with_actors_is_asked_for_the_model_and_the_run_folder(two_nodes, tmp_path):
    plan = make_plan(config_of("cluster=2x8"))
    placement = Placement(plan)
    try:
        await check_nodes(placement.nodes, on_this_node, tmp_path, tmp_path)
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(ConfigError, match="has no such folder") as caught:
            await check_nodes(placement.nodes, on_this_node, tmp_path / "gone", tmp_path)
        (problem,) = caught.value.problems
        assert problem.why.count(ray.nodes()[0]["NodeManagerHostname"]) == 2
    finally:
        placement.remove()
