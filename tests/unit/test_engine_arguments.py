"""rollout/vllm_engine.py over a host that notes what it is told: what vLLM is started with, and sleeping."""

import asyncio
from pathlib import Path

import pytest

from mel_ray.config.load import compose_config
from mel_ray.rollout import vllm_engine
from mel_ray.rollout.vllm_engine import EngineSettings, VllmEngine


class Host:
    def __init__(self, arguments):
        self.arguments, self.calls = arguments, []

    async def sleep(self):
        self.calls.append("sleep")

    async def wake(self, part):
        self.calls.append(part)


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setattr(vllm_engine, "AsyncHost", Host)

    def made(*overrides):
        config = compose_config(["model=qwen3_8b_base", *overrides])
        return VllmEngine(EngineSettings.of(config, Path("/model")), decode=str, stop_ids=())

    return made


def test_on_a_gpu_long_prompts_are_taken_in_large_pieces_and_the_share_is_as_told(engine):
    arguments = engine("cluster=2x8")._host.arguments
    assert arguments["max_num_batched_tokens"] == 8192  # AsyncLLM by itself: 2048
    assert arguments["gpu_memory_utilization"] == 0.85
    assert arguments["enable_sleep_mode"] is False
    assert arguments["weight_transfer_config"] == {"backend": "mel_nccl"}


@pytest.mark.parametrize(("width", "backend"), [(1, "uni"), (2, "mp")])
def test_inside_a_placement_group_vllm_starts_no_ray_actors_of_its_own(engine, width, backend):
    arguments = engine("cluster=2x8", f"cluster.rollout.tensor_parallel={width}")._host.arguments
    assert (arguments["tensor_parallel_size"], arguments["distributed_executor_backend"]) == (width, backend)


def test_an_engine_that_shares_its_gpu_can_sleep_and_takes_weights_from_shared_memory(engine):
    shared = engine("cluster=1x8", "cluster.colocated=true")
    assert shared._host.arguments["enable_sleep_mode"] is True
    assert shared._host.arguments["gpu_memory_utilization"] == 0.45
    assert shared._host.arguments["weight_transfer_config"] == {"backend": "mel_shm"}

    async def turn():
        await shared.sleep()
        await shared.wake("weights")
        await shared.wake("kv_cache")
        shared.running = 2
        with pytest.raises(RuntimeError, match="2 requests are running, so the engine cannot sleep"):
            await shared.sleep()

    asyncio.run(turn())
    assert shared._host.calls == ["sleep", "weights", "kv_cache"]


@pytest.mark.parametrize("compiled", [False, True])
def test_on_cpu_the_model_is_compiled_where_that_is_asked_for(engine, compiled):
    words = ["cluster=laptop", "cluster.rollout.in_process=false", f"cluster.rollout.compile={compiled}"]
    assert engine(*words)._host.arguments["enforce_eager"] is not compiled
