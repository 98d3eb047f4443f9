"""`mel export` writes of a checkpoint what the ranks that wrote it would have exported."""

import asyncio
import filecmp
import subprocess
import sys
from dataclasses import replace

import pytest

from mel_ray.config.load import compose_config, to_yaml
from mel_ray.config.plan import make_plan
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.policy.batch import shard
from mel_ray.policy.policy_pool import PolicyPool
from mel_ray.policy.policy_settings import PolicySettings
from mel_ray.records.reports import STATE_FILE
from mel_ray.records.step import LossSettings, OptimizerStep, TrainSettings
from tests.pools import plain
from tests.pools.forms import PARTITIONED

FORMS = {
    "one rank": (1, ()),
    "two ranks, bfloat16": (2, (*PARTITIONED, "model.dtype=bfloat16")),
    "two ranks, adapters": (2, (*PARTITIONED, "cluster.policy.lora.rank=4")),
}


@pytest.fixture(params=FORMS)
def run(request, ray_session, tmp_path):
    """A run folder with two checkpoints, and beside each what the policy exported then."""
    ranks, overrides = FORMS[request.param]
    group, bare = plain.sequences()
    rows = [replace(row, ref=ray_session.put(group)) for row in bare]
    common = ["cluster.policy.threads=1", "cluster.policy.cpus=0.2"]
    config = compose_config([f"cluster.policy.ranks={ranks}", *common, *overrides])
    (tmp_path / "config.yaml").write_text(to_yaml(config))

    async def write():
        plan, settings = make_plan(config).pool("policy"), PolicySettings.of(config, EMBEDDED)
        policy = PolicyPool(plan, settings, config.cluster.deadlines, tmp_path / "logs")
        try:
            await policy.ready()
            for step in (1, 2):
                await policy.train([OptimizerStep(shard(rows, ranks, 256))], TrainSettings(1e-3, LossSettings()))
                checkpoint = tmp_path / "checkpoints" / f"step-{step:06d}"
                await policy.save(checkpoint)
                (checkpoint / STATE_FILE).write_text("{}")
                await policy.export(tmp_path / f"exported-{step}")
        finally:
            policy.kill()

    asyncio.run(write())
    return tmp_path


def mel_export(*arguments) -> str:
    words = [sys.executable, "-m", "mel_ray.cli.mel", "export", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def assert_same(one, other):
    files = {file.relative_to(one) for file in one.rglob("*") if file.is_file()}
    assert files == {file.relative_to(other) for file in other.rglob("*") if file.is_file()}
    assert [file for file in files if not filecmp.cmp(one / file, other / file, shallow=False)] == []


def test_the_export_of_a_checkpoint_equals_that_of_the_policy_bit_for_bit(run):
    assert mel_export(run) == f"{run / 'export-step-000002'}\n"
    assert_same(run / "export-step-000002", run / "exported-2")
    assert mel_export(run, "--step", 1, "--to", run / "mine") == f"{run / 'mine'}\n"
    assert_same(run / "mine", run / "exported-1")
    assert not list(run.glob(".*"))
