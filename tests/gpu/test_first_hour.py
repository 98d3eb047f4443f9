"""The first hour on a GPU: what only a GPU can prove, from the installation to three steps of every layout.

    make gpu-smoke

A run that ends well has compared the checksum of every publish on every engine, and its exported model with the
trained one.
"""

import pytest
import torch

from tests.gpu.conftest import gpus

pytestmark = pytest.mark.gpu
MISMATCH = 0.5  # nats: the largest difference of a token's logprob between engine and trainer in bfloat16
KL = 0.01
ONE = ("cluster=1x1",)
TWO = ("cluster=1x8", "cluster.gpus_per_node=2", "cluster.policy.ranks=1", "cluster.rollout.engines=1")


def agrees(rows):
    """Three steps that trained, and engine and trainer that give tokens the same probabilities."""
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert any(row.get("policy/grad_norm", 0.0) > 0 for row in rows)
    compared = [row for row in rows if "mismatch/max" in row]
    assert compared
    for row in compared:
        assert row["mismatch/max"] < MISMATCH, row
        assert row["mismatch/kl"] < KL, row


def test_the_installation_is_for_cuda_and_its_kernels_load():
    import vllm._C_stable_libtorch  # noqa: F401  needs the driver's library

    assert torch.version.cuda is not None
    assert torch.cuda.get_device_capability() >= (8, 0)  # bfloat16
    assert torch.distributed.is_nccl_available()


def test_one_gpu_is_shared_in_turn(trained):
    agrees(trained(*ONE))


def test_one_gpu_with_the_optimizer_on_the_host(trained):
    agrees(trained(*ONE, "cluster.policy.offload=true"))


def test_adapters_reach_the_engine(trained):
    agrees(trained(*ONE, "cluster.policy.lora.rank=16", "algorithm.lr=1e-4"))


@pytest.mark.skipif(gpus() < 2, reason="needs two GPUs")
def test_two_gpus_with_weights_over_nccl(trained):
    agrees(trained(*TWO))


@pytest.mark.skipif(gpus() < 2, reason="needs two GPUs")
def test_two_gpus_explore_ahead_with_updates_in_flight(trained):
    agrees(trained(*TWO, "driver.capacity=1", "driver.publish=in_flight", "rollout.partial=true",
                   "algorithm.importance_cap=2"))  # fmt: skip


@pytest.mark.skipif(gpus() < 2, reason="needs two GPUs")
def test_two_ranks_and_their_engines_take_turns(trained):
    agrees(trained("cluster=1x8", "cluster.gpus_per_node=2", "cluster.colocated=true", "cluster.policy.ranks=2",
                   "cluster.rollout.engines=2"))  # fmt: skip


@pytest.mark.skipif(gpus() < 3, reason="needs three GPUs")
def test_an_engine_of_two_gpus_next_to_a_rank(trained):
    agrees(trained(*TWO, "cluster.gpus_per_node=3", "cluster.rollout.tensor_parallel=2"))


@pytest.mark.skipif(gpus() < 3, reason="needs three GPUs")
def test_two_ranks_share_a_packed_microbatch(trained):
    agrees(trained(*TWO, "cluster.gpus_per_node=3", "cluster.policy.ranks=2", "cluster.policy.packing=packed",
                   "cluster.policy.sequence_parallel=2"))  # fmt: skip
