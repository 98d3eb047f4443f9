"""From configuration to a running system: connects to Ray, builds the pools from the plan, and joins the parts.

The only file that knows all rooms; commands, tests, studies and benchmarks get their parts here.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import ray

from mel_ray.actors.incidents import Incidents
from mel_ray.actors.members import Members
from mel_ray.actors.node_checks import check_nodes
from mel_ray.actors.object_store import RayStore
from mel_ray.actors.placement import Placement
from mel_ray.config.checks import find_resource_problems, find_shared_memory_problems
from mel_ray.config.memory_estimate import GB, checkpoint_need, find_memory_problems, find_shadow_problems
from mel_ray.config.plan import Machine, Plan, make_plan, this_machine
from mel_ray.config.schema import Config
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.demonstrations import Demonstrations
from mel_ray.data.interleave import stream_of
from mel_ray.data.model_folder import on_this_node
from mel_ray.data.model_size import size_of_model
from mel_ray.driver.batches import Asked, Batches
from mel_ray.driver.buffer import Buffer
from mel_ray.driver.explorer import Explorer
from mel_ray.driver.learner import Learner
from mel_ray.driver.loop import Loop
from mel_ray.driver.order import AsItComes, Order, Replayed
from mel_ray.driver.state import RunState
from mel_ray.evaluation.evaluator import Evaluator
from mel_ray.mel.book import Book
from mel_ray.mel.experience_pool import ExperiencePool
from mel_ray.mel.memory import Memory
from mel_ray.policy.policy_pool import PolicyPool
from mel_ray.policy.policy_settings import PolicySettings
from mel_ray.records.ports import Archive, Rewards, Rollout
from mel_ray.records.problem import ConfigError, Problem
from mel_ray.records.row import Ref
from mel_ray.records.trajectory import Prompt
from mel_ray.rewards.verifier_pool import VerifierPool
from mel_ray.rollout.engine_pool import EnginePool
from mel_ray.rollout.rollout_pool import AllEngines, RolloutPool
from mel_ray.rollout.vllm_engine import EngineSettings
from mel_ray.run.folder import replayed_order
from mel_ray.run.order_file import read_order, versions_of
from mel_ray.weights.publisher import WeightPublisher
from mel_ray.weights.registry import TRANSPORTS, transport_of


def find_machine_problems(config: Config, machine: Machine) -> list[Problem]:
    """Where a node has too little memory for its part of the plan."""
    problems = find_shared_memory_problems(config, machine, "it")
    size = size_of_model(config)
    if size is not None:
        gpu = machine.gpu_memory or config.cluster.gpu_memory * GB
        problems += find_memory_problems(config, size, gpu, machine.memory)
    return problems


OBJECT_STORE_BYTES = 512 << 20  # of a local cluster; trajectories are small


def object_store_bytes(config: Config) -> int:
    """Of a local cluster. `checkpoint.shadow` needs room for the state after the last step and for the next one."""
    size = size_of_model(config) if config.checkpoint.shadow else None
    return OBJECT_STORE_BYTES + (2 * int(checkpoint_need(config, size).total) if size else 0)


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
            nodes, transport = sum(node["Alive"] for node in ray.nodes()), transport_of(config.cluster)
            if nodes > 1 and not TRANSPORTS[transport].reaches_nodes:
                what = f"the {nodes} nodes of this cluster"
                problems.append(TRANSPORTS[transport].reach_problem(config.cluster.weight_transfer, what))
            size = size_of_model(config)
            if size is not None:
                store = found.get("object_store_memory", 0.0)
                problems += find_shadow_problems(config, size, store, "the object store of this cluster")
            if problems:
                raise ConfigError(problems)
        else:
            # Ray's control service would keep a line for every call, and nobody could read them without a dashboard.
            os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
            scratch = tempfile.mkdtemp(prefix="mel_ray_", dir="/tmp")  # Ray's socket paths must stay short
            machine = this_machine()
            ray.init(
                address="local", num_cpus=int(machine.cpus), num_gpus=int(machine.gpus), include_dashboard=False,
                log_to_driver=False, logging_level="ERROR", object_store_memory=object_store_bytes(config),
                _temp_dir=scratch,
            )  # fmt: skip
        yield
    finally:
        ray.shutdown()
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


class Startable(Protocol):
    async def ready(self) -> None: ...

    def kill(self) -> None: ...


class SamplingPools:
    """Engines and verifiers alone: what an evaluation needs."""

    def __init__(
        self, config: Config, model_folder: Path, logs: Path | None, incidents: Incidents | None = None
    ) -> None:
        self.config, self.model_folder, self._logs = config, model_folder, logs
        self.plan, self.store = make_plan(config), RayStore()
        self.incidents, self._placement = incidents or Incidents(), self._placed_plan_on_nodes()
        try:
            self._make()
        except BaseException:
            self._placement.remove()  # or what was begun would hold its room
            raise

    def _make(self) -> None:
        config, logs, cluster = self.config, self._logs, self.config.cluster
        self._rollout_engines = self._engine_pool("rollout")
        self.rollout = RolloutPool(self._rollout_engines, cluster.deadlines.generate)
        self.rewards = VerifierPool(
            self.plan.pool("verifier"), cluster, config.reward, logs, config.rollout.max_tokens, self._placement,
            self.incidents,
        )  # fmt: skip
        self.evaluator = Evaluator(config, self.rollout, self.rewards)

    def _placed_plan(self) -> Plan:
        return self.plan.only("rollout", "verifier")

    def _placed_plan_on_nodes(self) -> Placement:
        cluster = self.config.cluster
        return Placement(self._placed_plan(), fewest=cluster.rollout.min_engines if cluster.elastic else None)

    async def _placed(self) -> None:
        """Wait for the plan's resources, and see that every node has what its actors need."""
        await self._placement.ready(self.config.cluster.deadlines.start)
        run_dir = self._logs.parent if self._logs else None
        await check_nodes(self._placement.nodes, on_this_node, self.model_folder, run_dir, self._lacking)

    def _lacking(self, machine: Machine) -> list[Problem]:
        """What a node lacks of memory; a machine of its own was checked before."""
        return find_machine_problems(self.config, machine) if os.environ.get("RAY_ADDRESS") else []

    def _engine_pool(self, name: str) -> EnginePool:
        config = self.config
        settings = EngineSettings.of(config, self.model_folder)
        return EnginePool(
            self.plan.pool(name), settings, config.model, config.cluster, self._logs, self._placement, self.incidents
        )

    async def ready(self) -> None:
        await self._placed()
        await asyncio.gather(self._rollout_engines.ready(), self.rewards.ready())
        self._watch()

    @property
    def _healing(self) -> "list[Members[Any]]":
        """The members of every pool that replaces those it loses."""
        return [self._rollout_engines.members, self.rewards.members]

    def _watch(self) -> None:
        for members in self._healing:
            members.watch(self.config.cluster.deadlines.hang)

    def kill(self) -> None:
        """End every actor at once, for those who keep Ray running."""
        self._rollout_engines.kill()
        self.rewards.kill()
        self._placement.remove()


class Pools(SamplingPools):
    """The four pools; `ready` starts them together and publishes nothing yet."""

    def _make(self) -> None:
        super()._make()
        config, logs = self.config, self._logs
        self._engine_pools = [self._rollout_engines]
        if "experience-engine" in self.plan:
            self._engine_pools.append(self._engine_pool("experience-engine"))
        self.engines = AllEngines(self._engine_pools, config.cluster.rollout.tensor_parallel)
        self.experience = self.experience_pool(config, self._placement)
        settings, cluster = PolicySettings.of(config, self.model_folder), config.cluster
        self.policy = PolicyPool(self.plan.pool("policy"), settings, cluster.deadlines, logs, self._placement)
        self.publisher = WeightPublisher(
            self.policy, self.engines, transport_of(cluster), cluster.rollout.tensor_parallel, cluster.weight_delta
        )
        self.engines.serve_with(self.publisher.serve)

    def _placed_plan(self) -> Plan:
        return self.plan

    def experience_pool(self, config: Config, placement: Placement | None = None) -> ExperiencePool:
        """An experience pool on this run's engines; its options may differ from those of the other pools."""
        plan, lent = self.plan.pool("experience"), self._engine_pools[-1]
        return ExperiencePool(plan, config, self.model_folder, lent, self._logs, placement, self.incidents)

    @property
    def _healing(self) -> "list[Members[Any]]":
        return [*(pool.members for pool in self._engine_pools), self.rewards.members, self.experience.members]

    @property
    def _all(self) -> list[Startable]:
        return [*self._engine_pools, self.policy, self.rewards, self.experience]

    async def ready(self, origin: Path | Sequence[Ref] | None = None) -> None:
        """Wait until every actor has loaded, restore the policy from a checkpoint, or from the parts that its ranks
        packed, and connect it to the engines."""
        await self._placed()
        async with asyncio.TaskGroup() as starting:
            for pool in self._all:
                if pool is not self.policy or not self.config.cluster.colocated:
                    starting.create_task(pool.ready())
        if self.config.cluster.colocated:  # an engine finds out at its start how much of the GPU is free
            await self.engines.sleep()
            await self.policy.ready()
        if isinstance(origin, Path):
            await self.policy.load(origin)
        elif origin is not None:
            await self.policy.restore(origin)
        await self.publisher.connect()
        self._watch()

    def kill(self) -> None:
        for pool in self._all:
            pool.kill()
        self._placement.remove()


def make_loop(
    config: Config, pools: Pools, prompts: Sequence[Prompt], archive: Archive, state: RunState | None = None,
    waiting: Sequence[Asked] = (),
) -> Loop:  # fmt: skip
    """The training loop over pools that are ready, from a state on (by default the beginning), with what was explored
    ahead by then."""
    state, order = state or RunState(), order_of(config, state, waiting)
    data = stream_of(prompts, config, state.position)
    book = Book(config.mel, pools.store)
    rollout: Rollout = pools.rollout
    rewards: Rewards = pools.rewards
    if config.algorithm.samples == "dataset":
        rollout = rewards = Demonstrations(ChatTokenizer(str(pools.model_folder), config.model), pools.store)
    explorer = Explorer(config, rollout, rewards, pools.experience, order, state.quarantined, book)
    batches = Batches(explorer.explore, data, config, waiting, state)
    buffer = Buffer(batches, config.driver.capacity, config.run.steps, order.closed)
    options = config.mel.memory
    memory = Memory(options.size, options.max_age, config.run.seed, pools.store)
    learner = Learner(config, pools.policy, memory, archive, book)
    return Loop(config, state, data, buffer, learner, pools.publisher, pools.engines, order, pools.incidents)


def order_of(config: Config, state: RunState, waiting: Sequence[Asked]) -> Order:
    """That of `run.replay_order`, without what has been sampled already."""
    if config.run.replay_order is None:
        return AsItComes()
    order = read_order(replayed_order(config))
    steps = {step: dict(one.sampled) for step, one in order.items() if state.step < step <= config.run.steps}
    for one in waiting:
        if one.explored is not None:
            for sample in versions_of(one.explored):
                steps.get(one.step, {}).pop(sample, None)
    trained_from = {step: one.version for step, one in order.items()}
    patience = config.cluster.deadlines.generate
    return Replayed(config.run.replay_order, steps, state.version, trained_from, patience)
