"""What config/memory_estimate.py says of a rank's state, against the bytes that the tensors of a real one hold."""

import gc
import socket

import pytest
import ray

from mel_ray.actors.process import CPU_POLICY_ENV, runtime_env
from mel_ray.config.memory_estimate import ITEM, REDUCE_BUCKET, checkpoint_need, rank_need
from mel_ray.config.plan import make_plan
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.data.model_size import model_size
from mel_ray.policy.policy_settings import PolicySettings, Rendezvous
from tests.unit.builders import config_of

STATE = ("weights", "moments", "gradients", "float32 masters")


def state_bytes(settings, folder):
    """Bytes of all tensors after an update, and of a checkpoint on disk."""
    import numpy as np
    import torch

    from mel_ray.policy.zero3 import Zero3Policy
    from mel_ray.records.step import OptimizerStep, TrainSequence, TrainSettings

    with socket.create_server(("", 0)) as listener:
        rendezvous = Rendezvous(0, 0, 1, "127.0.0.1", listener.getsockname()[1])
        policy = Zero3Policy(settings, rendezvous, listener)
    ones = np.ones(7, np.float32)
    sequence = TrainSequence(np.arange(8, dtype=np.int32), np.array([False] + [True] * 7), ones, 0 * ones, ones, -ones)
    policy.update([(OptimizerStep(()), [[sequence]])], TrainSettings(1e-4))
    gc.collect()
    storages = {}
    for one in gc.get_objects():
        if isinstance(one, torch.Tensor) and one.device.type == "cpu" and not hasattr(one, "ds_tensor"):
            storage = one.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    policy.save(folder)
    return sum(storages.values()), sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_state_of_a_rank_and_its_checkpoint_have_the_estimated_size(ray_session, tmp_path, dtype):
    config = config_of(f"model.dtype={dtype}", "cluster.policy.persistence_threshold=0")
    assert make_plan(config).pool("policy").actors == 1
    run = ray.remote(max_calls=1)(state_bytes).options(num_cpus=0.5, runtime_env=runtime_env(CPU_POLICY_ENV))
    held, stored = ray.get(run.remote(PolicySettings.of(config, EMBEDDED), tmp_path), timeout=180)
    size = model_size(EMBEDDED)
    need = rank_need(config, size)
    held -= REDUCE_BUCKET * ITEM[dtype]
    assert held == pytest.approx(sum(need.parts.get(part, 0.0) for part in STATE), rel=0.1)
    assert stored == pytest.approx(checkpoint_need(config, size).total, rel=0.1)
