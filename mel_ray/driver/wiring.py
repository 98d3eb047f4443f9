"""From configuration to a running system: connects to Ray and builds the four pools."""

import asyncio
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import ray

from mel_ray.config.checks import find_resource_problems
from mel_ray.config.machine import Machine, this_machine
from mel_ray.records.problems import ConfigError, Problem
from mel_ray.config.schema import Config
from mel_ray.policy.settings import EngineSettings, PolicySettings
from mel_ray.mel.experience_actor import ExperiencePool
from mel_ray.policy.policy_pool import PolicyPool, weight_transport
from mel_ray.rollout.engine_pool import AllEngines, EnginePool, RolloutPool
from mel_ray.rewards.verifier_actor import VerifierPool

OBJECT_STORE_BYTES = 512 << 20  # of a local cluster; trajectories are small


@contextmanager
def connected_to_ray(config: Config) -> Iterator[None]:
    """The cluster of RAY_ADDRESS (as `ray job submit` sets it), or a local one that ends with this process.

    Raises:
        ConfigError: the cluster is too small for the plan.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address, scratch = os.environ.get("RAY_ADDRESS"), None
    try:
        if address:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            found = ray.cluster_resources()
            cluster = Machine(found.get("CPU", 0), found.get("GPU", 0), is_cluster=True)
            problems = find_resource_problems(config, cluster)
            nodes = sum(node["Alive"] for node in ray.nodes())
            if nodes > 1 and weight_transport(config.cluster) == "shm":
                why = f"shared memory does not reach the {nodes} nodes of this cluster"
                problems.append(Problem("cluster.weight_transfer", config.cluster.weight_transfer, why, "use gloo"))
            if problems:
                raise ConfigError(problems)
        else:
            scratch = tempfile.mkdtemp(prefix="mel_ray_", dir="/tmp")  # Ray's socket paths must stay short
            machine = this_machine()
            ray.init(
                address="local", num_cpus=int(machine.cpus), num_gpus=int(machine.gpus), include_dashboard=False,
                log_to_driver=False, logging_level="ERROR", object_store_memory=OBJECT_STORE_BYTES, _temp_dir=scratch,
            )  # fmt: skip
        yield
    finally:
        ray.shutdown()
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def engine_settings(config: Config, model_folder: Path) -> EngineSettings:
    pool = config.cluster.rollout
    return EngineSettings(
        model=str(model_folder),
        dtype=config.model.dtype,
        max_context=config.model.max_context,
        device=config.cluster.device,
        tensor_parallel=pool.tensor_parallel,
        max_sequences=pool.max_sequences,
        memory_share=pool.memory_share,
        kv_cache_mib=pool.kv_cache_mib,
        in_process=pool.in_process,
        transport=weight_transport(config.cluster),
        seed=config.run.seed,
    )


def policy_settings(config: Config, model_folder: Path) -> PolicySettings:
    pool, algorithm = config.cluster.policy, config.algorithm
    return PolicySettings(
        model=str(model_folder),
        dtype=config.model.dtype,
        device=config.cluster.device,
        temperature=config.rollout.temperature,
        attention=pool.attention,
        gradient_checkpointing=pool.gradient_checkpointing,
        head_pieces=math.ceil(max(pool.token_budget, config.model.max_context) / pool.logprob_chunk),
        threads=pool.threads,
        weight_decay=algorithm.weight_decay,
        betas=algorithm.betas,
        max_grad_norm=algorithm.max_grad_norm,
        has_reference=algorithm.kl.coefficient > 0,
        has_slow_weights=config.mel.enabled and config.mel.reptile.every > 0,
    )


class SamplingPools:
    """Rollout and verifier pools alone, for an evaluation."""

    def __init__(self, config: Config, model_folder: Path, logs: Path | None) -> None:
        cluster, settings = config.cluster, engine_settings(config, model_folder)
        self._engines = EnginePool("rollout", settings, config.model, cluster, cluster.rollout.engines, logs)
        self.verifier = VerifierPool(cluster, config.reward, logs)
        self.rollout = RolloutPool(self._engines, cluster.deadlines.generate)

    async def ready(self) -> None:
        await asyncio.gather(self._engines.ready(), self.verifier.ready())

    def kill(self) -> None:
        """End every actor at once."""
        for actor in (*(engine.actor for engine in self._engines.engines), *self.verifier.actors):
            ray.kill(actor)


class Pools:
    """The four pools, started together; `ready` waits for all of them."""

    def __init__(self, config: Config, model_folder: Path, logs: Path | None) -> None:
        cluster, settings = config.cluster, engine_settings(config, model_folder)
        rollout_engines = EnginePool("rollout", settings, config.model, cluster, cluster.rollout.engines, logs)
        lent, pools = rollout_engines, [rollout_engines]
        if config.mel.enabled and cluster.experience.engines:
            count = cluster.experience.engines
            lent = EnginePool("experience-engine", settings, config.model, cluster, count, logs)
            pools.append(lent)
        self._engine_pools = pools
        self.engines = AllEngines(pools)
        self.policy = PolicyPool(cluster, policy_settings(config, model_folder), cluster.rollout.tensor_parallel, logs)
        self.verifier = VerifierPool(cluster, config.reward, logs)
        self._experience = partial(ExperiencePool, folder=model_folder, engines=lent, logs=logs)
        self.experience = self._experience(config)
        self.rollout = RolloutPool(rollout_engines, cluster.deadlines.generate)

    def kill(self) -> None:
        """End every actor at once, for those who keep Ray running."""
        for actor in (
            *(engine.actor for engine in self.engines.engines),
            *self.policy.actors,
            *self.verifier.actors,
            *self.experience.actors,
        ):
            ray.kill(actor)

    async def renew_experience(self, config: Config) -> None:
        """Go on with other options of the meta-experience loop, on the same engines."""
        for actor in self.experience.actors:
            ray.kill(actor)
        self.experience = self._experience(config)
        await self.experience.ready()

    async def ready(self, checkpoint: Path | None = None) -> None:
        """Wait until every actor has loaded, restore the policy, and connect it to the engines."""
        async with asyncio.TaskGroup() as starting:
            for ready in (
                *(pool.ready() for pool in self._engine_pools),
                self.policy.ready(),
                self.verifier.ready(),
                self.experience.ready(),
            ):
                starting.create_task(ready)
        if checkpoint is not None:
            await self.policy.load(checkpoint)
        await self.policy.connect(self.engines)
