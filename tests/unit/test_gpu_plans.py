"""The keys with which the GPU tests train compose and have no problems in themselves, so that no GPU hour is lost."""

import ast
from pathlib import Path

import pytest

from benchmarks.weight_sync import on_gpus
from mel_ray.config.checks import find_problems
from mel_ray.config.load import compose_config
from tests.gpu import test_first_hour as gpu_tests
from tests.gpu.conftest import KEYS

FILE = Path(gpu_tests.__file__)


def asked() -> list[list[str]]:
    """The arguments of every `trained(...)` in the file."""
    calls = [node for node in ast.walk(ast.parse(FILE.read_text())) if isinstance(node, ast.Call)]
    found = []
    for call in calls:
        if getattr(call.func, "id", "") == "trained":
            words = []
            for argument in call.args:
                name = getattr(getattr(argument, "value", None), "id", None)
                words += getattr(gpu_tests, name) if name else [ast.literal_eval(argument)]
            found.append(words)
    return found


def test_there_are_plans_to_check():
    assert len(asked()) >= 8


@pytest.mark.parametrize("overrides", asked(), ids=" ".join)
def test_a_plan_of_the_gpu_tests_has_no_problems(overrides):
    config = compose_config([*KEYS, "model.path=/a/model", *overrides])
    assert config.cluster.device == "cuda"
    assert find_problems(config) == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("cluster.policy.ranks=8",), "the plan needs 12 GPUs, and cluster.nodes=1 x cluster.gpus_per_node=8 are 8"),
        (("cluster.rollout.tensor_parallel=8",), "GPUs, and cluster.nodes=1 x"),
        (("cluster.gpus_per_node=0",), "the plan needs 8 GPUs"),
        (("cluster.rollout.max_batched_tokens=256", "cluster.rollout.max_sequences=1024"), "at least"),
        (("cluster.rollout.memory_share=1.0",), "CUDA itself needs memory"),
        (("cluster.policy.attention=nonsense",), "there is no such attention"),
        (("cluster.policy.attention=flash_attention_2",), "its package flash_attn is not installed here"),
        (("cluster.policy.attention=flash_attention_2", "cluster=laptop"), "it runs on GPUs alone"),
    ],
)
def test_what_a_gpu_cluster_cannot_do_is_refused(overrides, words):
    config = compose_config(["model=qwen3_8b_base", "cluster=1x8", *overrides])
    found = [str(problem) for problem in find_problems(config)]
    assert any(words in one for one in found), found


def test_kernels_of_the_hub_are_no_problem():
    config = compose_config(
        ["model=qwen3_8b_base", "cluster=1x8", "cluster.policy.attention=kernels-community/flash-attn2"]
    )
    assert find_problems(config) == []


@pytest.mark.parametrize("transport", ["nccl", "shm", "gloo"])
def test_the_plan_of_the_benchmark_of_weight_sync_has_no_problems(transport):
    words = [*on_gpus(transport, 1), "cluster.rollout.engines=1", f"cluster.weight_transfer={transport}"]
    assert find_problems(compose_config(["model.path=/a/model", *words])) == []
