"""Two engines of two workers each: each worker takes its part of every weight, and all agree on what they received."""

import numpy as np
import pytest

from tests.pools.test_pools import (
    SMALL,
    TOLERANCE,
    generate_all,
    questions,
    record_of,
    sampling,
    train_once,
    transformers_logprobs,
)

pytestmark = pytest.mark.slow
WIDE = ("cluster.rollout.in_process=false", "cluster.rollout.tensor_parallel=2", "cluster.rollout.engines=2",
        "cluster.weight_transfer=gloo", "cluster.rollout.cpus=0.2")  # fmt: skip


def test_sharded_engines_serve_exactly_the_policys_weights(run_pools, tmp_path):
    async def body(config, pools):
        prompts, how = questions(config, 4), sampling(1, 2)
        before = await generate_all(pools, prompts, how)
        await pools.publisher.publish(1)
        await train_once(pools, before, lr=0.05)
        await pools.publisher.publish(2)  # compares the checksum of every worker
        await pools.policy.export(tmp_path / "export")
        for rows in await generate_all(pools, prompts, how):
            group = await record_of(rows)
            for trajectory, expected in zip(group.trajectories, transformers_logprobs(tmp_path / "export", group)):
                assert set(trajectory.versions) == {2}
                assert np.abs(trajectory.logprobs - expected).max() < TOLERANCE

    run_pools(body, *SMALL, *WIDE)
