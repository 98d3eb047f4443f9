"""A node dies under a run: its actors move to where there is room, or wait aloud for a node that joins."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from mel_ray.actors.object_store import RayStore
from mel_ray.records.incident import LostRecords
from mel_ray.records.ledger import Ledger
from tests.faults.faulty import MOMENTS
from tests.faults.test_faults import COMMON, Done, Undisturbed, run, told, under_way
from tests.faults.test_faults import assert_whole as is_whole
from tests.pools.test_end_to_end import NO_EVALUATION, SMALL, started, steps_of, wait_until

pytestmark = pytest.mark.slow
STORE = 128 << 20
STEPS = 20  # so that a raylet's death is noticed before the end
SIZES = ["cluster.rollout.cpus=1", "cluster.policy.cpus=1", "cluster.weight_transfer=gloo"]
LONGER = [*SIZES, f"run.steps={STEPS}"]


@contextmanager
def cluster_of(*cpus: int) -> Iterator[tuple[Cluster, list]]:
    """A head and more nodes with so many CPUs each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus[0], "object_store_memory": STORE})
    try:
        yield cluster, [cluster.add_node(num_cpus=count, object_store_memory=STORE) for count in cpus[1:]]
    finally:
        cluster.shutdown()


def running(cluster: Cluster, folder: Path, *overrides: str) -> AbstractContextManager[subprocess.Popen]:
    words = [
        f"run.dir={folder.parent}",
        f"run.name={folder.name}",
        *SIZES,
        "checkpoint.every=2",
        *NO_EVALUATION,
        *SMALL,
        *overrides,
    ]
    return started(*words, RAY_ADDRESS=cluster.address)


def incidents(folder: Path) -> list[dict]:
    file = folder / "incidents.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def waiting(folder: Path, who: str) -> list[str]:
    return [one["text"] for one in incidents(folder) if (one["kind"], one["who"]) == ("waiting", who)]


def assert_whole(process: subprocess.Popen, folder: Path, steps: int) -> None:
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    rows = steps_of(folder)
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    assert all(Ledger.from_dict(row["ledger"]).is_balanced for row in rows)


def test_records_on_a_node_that_is_gone_are_known_to_be_lost():
    @ray.remote(num_cpus=2)
    def large() -> bytes:
        return bytes(1 << 20)  # small ones are with their owner

    with cluster_of(1, 2) as (cluster, [other]):
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        try:
            far, near = large.options(max_retries=0).remote(), ray.put(bytes(1 << 20))
            ray.wait([far], fetch_local=False, timeout=60)
            cluster.remove_node(other, allow_graceful=False)
            assert asyncio.run(RayStore().lost([far, near])) == {far}
            with pytest.raises(LostRecords):
                asyncio.run(RayStore().get([near, far]))
        finally:
            ray.shutdown()


class UndisturbedNodes(Undisturbed):
    def _run(self, *words: str) -> Done:
        with cluster_of(3, 2) as (cluster, _):
            return run("mel_ray.main", *words, RAY_ADDRESS=cluster.address)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Undisturbed:
    return UndisturbedNodes(tmp_path_factory.mktemp("undisturbed"), *LONGER)


@pytest.mark.parametrize("capacity", [0, 1])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_worker_raylet_dies(tmp_path, undisturbed, moment, capacity):
    folder, usual = tmp_path / "faulty", undisturbed.seconds(capacity)
    words = [f"run.dir={tmp_path}", "run.name=faulty", f"driver.capacity={capacity}", *COMMON, *LONGER]
    with cluster_of(3, 2) as (cluster, _):
        done = run("tests.faults.faulty", "raylet", moment, "4", "SIGKILL", *words, RAY_ADDRESS=cluster.address)
    assert done.returncode == 0, done.stderr
    killed = done.time_of("SIGKILL to the raylet")
    told("raylet", moment, capacity, done.time_of(under_way(4, moment), killed) - killed, usual)
    is_whole(folder, STEPS)
    assert "lost" in {one["kind"] for one in incidents(folder)}
    assert "quarantined" not in {one["kind"] for one in incidents(folder)}
    if capacity == 0:
        assert undisturbed.unlike(folder) == []


def test_the_run_goes_on_with_what_is_left_and_uses_a_node_that_joins(tmp_path):
    # The policy and an engine are on the head, which is larger; the other engine is on the other node.
    with cluster_of(3, 2) as (cluster, [other]), running(cluster, tmp_path / "run", "run.steps=40") as process:
        folder = tmp_path / "run"
        wait_until(lambda: len(steps_of(folder)) >= 2)
        cluster.remove_node(other, allow_graceful=False)
        wait_until(lambda: waiting(folder, "rollout-1") != [])
        assert "is gone, and no other has 1 CPU free. It waits for" in waiting(folder, "rollout-1")[0]
        before = len(steps_of(folder))
        wait_until(lambda: len(steps_of(folder)) >= before + 2)
        cluster.add_node(num_cpus=2, object_store_memory=STORE)
        wait_until(lambda: ("healed", "rollout-1") in [(one["kind"], one["who"]) for one in incidents(folder)])
        assert_whole(process, folder, 40)


@pytest.mark.parametrize("has_shadow", ["true", "false"])
def test_the_policys_node_dies_and_the_run_waits_for_another(tmp_path, has_shadow):
    """What was kept in memory is lost with it."""
    keys = ("run.steps=5", f"checkpoint.shadow={has_shadow}")
    with cluster_of(1, 3) as (cluster, [other]), running(cluster, tmp_path / "run", *keys) as process:
        folder = tmp_path / "run"
        wait_until(lambda: len(steps_of(folder)) >= 3)
        cluster.remove_node(other, allow_graceful=False)
        wait_until(lambda: waiting(folder, "cluster") != [])
        cluster.add_node(num_cpus=3, object_store_memory=STORE)
        assert_whole(process, folder, 5)
        rewound = [one["text"] for one in incidents(folder) if one["kind"] == "rewound"]
        assert "from the checkpoint of step 2" in rewound[-1]


def test_a_run_begins_with_fewer_engines_and_uses_a_node_that_joins(tmp_path):
    with (
        cluster_of(3) as (cluster, _),
        running(cluster, tmp_path / "run", "run.steps=30", "cluster.elastic=true") as run,
    ):
        folder = tmp_path / "run"
        wait_until(lambda: len(steps_of(folder)) >= 2)
        assert waiting(folder, "rollout-1") == ["No node has 1 CPU free. It waits for a node that has."]
        cluster.add_node(num_cpus=2, object_store_memory=STORE)
        wait_until(lambda: ("healed", "rollout-1") in [(one["kind"], one["who"]) for one in incidents(folder)])
        assert_whole(run, folder, 30)
