"""`cluster.weight_delta=true` with real engines: changes add up to exactly the policy's weights."""

import numpy as np
import pytest
from safetensors.torch import load_file

from mel_ray.data.model_folder import EMBEDDED
from mel_ray.weights.checksum import combined_checksum, tensor_checksum
from tests.pools.test_pools import (
    SMALL,
    TOLERANCE,
    damage_once,
    generate_all,
    questions,
    record_of,
    sampling,
    train_once,
    transformers_logprobs,
    untied_copy,
)


def sent_bytes(actor) -> int:
    return actor._sender.sent_bytes


def flip_one_bit(actor) -> None:
    """In the last parameter of the engine's copy; the sender knows of no change there."""
    worker = actor._engine._host._llm.model_executor.driver_worker.worker
    worker.weight_transfer_engine._memory[-1 - 64] ^= 1


def change_one(actor) -> None:
    """One value of one parameter."""
    next(actor._policy._causal_lm.parameters()).ds_tensor.data[5] += 0.5


async def checksum_of_export(pools, folder) -> str:
    await pools.policy.export(folder)
    return combined_checksum({name: tensor_checksum(w) for name, w in load_file(folder / "model.safetensors").items()})


@pytest.mark.parametrize(
    ("tied", "overrides"),
    [
        (True, ["cluster.weight_transfer=gloo", "cluster.rollout.engines=2"]),
        (False, ["cluster.weight_transfer=shm", "cluster.rollout.threads=2"]),
    ],
    ids=["tied-gloo-2-engines", "untied-shm-2-threads"],
)
def test_changes_add_up_to_the_policys_weights(run_pools, tmp_path, tied, overrides):
    folder = EMBEDDED if tied else untied_copy(tmp_path / "untied")

    async def body(config, pools):
        prompts, how, rank = questions(config, 4), sampling(1, 2, 3, 4), pools.policy.handles[0].actor
        sampled = await generate_all(pools, prompts, how)
        await pools.publisher.publish(0)
        everything = await rank.__ray_call__.remote(sent_bytes)
        for version in (1, 2, 3):
            if version == 2:
                await rank.__ray_call__.remote(change_one)
            else:
                await train_once(pools, sampled, lr=0.01)
            if version == 3:
                damage_once(pools.engines.engines[-1])
            await pools.publisher.publish(version)
            sent = await rank.__ray_call__.remote(sent_bytes)
            assert sent <= 8 if version == 2 else sent <= everything
            if version == 3:
                assert sent == everything  # the engine that took the broken one's place knows nothing yet
            assert pools.publisher.checksum == await checksum_of_export(pools, tmp_path / f"export-{version}")
            sampled = await generate_all(pools, prompts, how)
            for rows in sampled:
                group = await record_of(rows)
                expected = transformers_logprobs(tmp_path / f"export-{version}", group)
                for trajectory, logprobs in zip(group.trajectories, expected, strict=True):
                    assert set(trajectory.versions) == {version}
                    assert np.abs(trajectory.logprobs - logprobs).max() < TOLERANCE

    words = [*SMALL, *overrides, "cluster.rollout.in_process=true", "cluster.weight_delta=true"]
    run_pools(body, f"model.path={folder}", *words)


def test_a_bit_that_turned_in_an_engines_copy_is_found_although_it_did_not_travel(run_pools):
    async def body(config, pools):
        await pools.publisher.publish(0)
        damaged = pools.engines.engines[0]
        await damaged.handle.actor.__ray_call__.remote(flip_one_bit)
        await pools.publisher.publish(1)
        assert damaged not in pools.engines.engines
        sampled = await generate_all(pools, questions(config, 2), sampling(1, 2))
        assert {version for rows in sampled for row in rows for version in row.versions} == {1}

    run_pools(body, *SMALL, "cluster.weight_transfer=gloo", "cluster.weight_delta=true")
