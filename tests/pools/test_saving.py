"""Real ranks: what a checkpoint holds while training goes on, a disk that is full, and updates that are skipped."""

import pytest

from mel_ray.records.incident import PoolError
from tests.pools.test_pools import SMALL, generate_all, questions, sampling, train_once
from tests.pools.test_weight_delta import checksum_of_export

RANKS = [*SMALL, "cluster.policy.ranks=2"]


def limit_files(actor, most: int) -> None:
    """A file that grows beyond so many bytes is refused, as on a full disk."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def spoil_the_loss(actor) -> None:
    """Of this rank alone."""
    from mel_ray.policy import zero3

    joint_loss = zero3.joint_loss

    def spoilt(*arguments):
        value, parts = joint_loss(*arguments)
        return value * float("nan"), parts

    zero3.joint_loss = spoilt


def test_a_checkpoint_holds_the_policy_of_its_time(run_pools, tmp_path):
    async def body(config, pools):
        await pools.publisher.publish(0)
        sampled = await generate_all(pools, questions(config, 4), sampling(1, 2, 3, 4))
        await train_once(pools, sampled, lr=0.01)
        then = await checksum_of_export(pools, tmp_path / "then")
        await pools.policy.snapshot(tmp_path / "checkpoint")
        await train_once(pools, sampled, lr=0.01)
        assert await checksum_of_export(pools, tmp_path / "later") != then
        await pools.policy.write()
        await pools.policy.load(tmp_path / "checkpoint")
        assert await checksum_of_export(pools, tmp_path / "again") == then

        await pools.policy.shadow()
        await train_once(pools, sampled, lr=0.01)
        await pools.policy.restore(await pools.policy.pack())
        assert await checksum_of_export(pools, tmp_path / "from memory") == then

        for handle in pools.policy.handles:
            await handle.actor.__ray_call__.remote(limit_files, 1000)
        with pytest.raises(PoolError, match="could not be written; its disk has"):
            await pools.policy.save(tmp_path / "full")
        for handle in pools.policy.handles:
            await handle.actor.__ray_call__.remote(limit_files, -1)
        await pools.policy.save(tmp_path / "room again")
        await pools.policy.load(tmp_path / "room again")

        # one rank's loss is not finite: no rank steps, and all have the same weights afterwards
        await pools.policy.handles[1].actor.__ray_call__.remote(spoil_the_loss)
        update = await train_once(pools, sampled, lr=0.01)
        assert (update.skipped, update.moved, update.metrics["policy/skipped_updates"]) == (1, False, 1.0)
        assert "policy/grad_norm" not in update.metrics
        assert await checksum_of_export(pools, tmp_path / "skipped") == then

    run_pools(body, *RANKS)


def test_a_gradient_that_is_too_large_is_skipped(run_pools, tmp_path):
    async def body(config, pools):
        await pools.publisher.publish(0)
        sampled = await generate_all(pools, questions(config, 4), sampling(1, 2, 3, 4))
        before = await checksum_of_export(pools, tmp_path / "before")
        assert (await train_once(pools, sampled, lr=0.01)).skipped == 1
        assert await checksum_of_export(pools, tmp_path / "after") == before

    run_pools(body, *RANKS, "algorithm.skip_grad_norm=1e-6")
