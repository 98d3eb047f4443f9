"""From configuration to the plan of a run: pools, what their actors ask of Ray, batch arithmetic, disk space."""

import math
import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from mel_ray.config.schema import Config


@dataclass(frozen=True, slots=True)
class Machine:
    """What a run may use: of this machine, or of the Ray cluster it is submitted to (`is_cluster`).

    Bytes, None where they are not known: `memory` of the machine, `gpu_memory` of its smallest GPU, `shared_memory` of
    /dev/shm.
    """

    cpus: float
    gpus: float
    is_cluster: bool = False
    memory: float | None = None
    gpu_memory: float | None = None
    shared_memory: float | None = None


def this_machine() -> Machine:
    cpus = len(os.sched_getaffinity(0))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = len(list(Path("/dev").glob("nvidia[0-9]*")))
    gpus = present if visible is None else min(present, len([v for v in visible.split(",") if v]))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        cpus, gpus, memory=memory, gpu_memory=_gpu_memory() if gpus else None, shared_memory=_shared_memory()
    )


def _shared_memory() -> float | None:
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return None
    return float(found.f_blocks * found.f_frsize)


def _gpu_memory() -> float | None:
    """Bytes of the smallest GPU, as the driver's own tool says."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        return min(float(line) for line in said.split()) * (1 << 20)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """A pool of equal actors; `name` also begins the names of its actors and logs.

    Of each actor: the `cpus` it asks Ray for, the GPUs it runs on and its `share` of them, and the `threads` its
    libraries may use.
    """

    name: str
    kind: str
    actors: int
    cpus: float
    gpus: int = 0
    threads: int = 1
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Pools without actors are left out."""

    pools: tuple[PoolPlan, ...]
    trajectories: int
    trajectories_per_update: int

    @property
    def cpus(self) -> float:
        return sum(pool.actors * pool.cpus for pool in self.pools)

    @property
    def gpus(self) -> int:
        return math.ceil(sum(pool.actors * pool.gpus * pool.share for pool in self.pools))

    def pool(self, name: str) -> PoolPlan:
        """
        Raises:
            KeyError: the run has no such pool.
        """
        return {pool.name: pool for pool in self.pools}[name]

    def only(self, *names: str) -> "Plan":
        """The same plan with these pools alone."""
        return replace(self, pools=tuple(pool for pool in self.pools if pool.name in names))

    def __contains__(self, name: str) -> bool:
        return any(pool.name == name for pool in self.pools)


def make_plan(config: Config) -> Plan:
    """What a run starts: `--check` prints it, and the pools are built from it.

    The names are `rollout`, `verifier`, `experience`, `policy` and, where the experience pool has engines of its own,
    `experience-engine`.
    """
    cluster = config.cluster
    is_cuda, rollout = cluster.device == "cuda", cluster.rollout
    share = 0.5 if cluster.colocated else 1.0

    def engines(name: str, count: int) -> PoolPlan:
        kind = "vLLM, in process" if rollout.in_process else "vLLM AsyncLLM"
        gpus = rollout.tensor_parallel if is_cuda else 0
        return PoolPlan(name, kind, count, rollout.cpus, gpus, rollout.threads, share)

    lent = "own engines" if cluster.experience.engines else "borrows the rollout pool's engines"
    policy = cluster.policy
    pools = (
        engines("rollout", rollout.engines),
        PoolPlan("verifier", "Math-Verify in killable processes", cluster.verifier.actors, cluster.verifier.cpus),
        PoolPlan("experience", lent, cluster.experience.actors, cluster.experience.cpus),
        engines("experience-engine", cluster.experience.engines if config.mel.enabled else 0),
        PoolPlan("policy", "DeepSpeed ZeRO-3", policy.ranks, policy.cpus, int(is_cuda), policy.threads, share),
    )
    trajectories = config.rollout.prompts_per_step * config.rollout.group_size
    updates = config.algorithm.minibatches
    return Plan(tuple(pool for pool in pools if pool.actors), trajectories, trajectories // updates)


def least(config: Config) -> Config:
    """The same with as few engines as it may begin with."""
    cluster = config.cluster
    if not cluster.elastic:
        return config
    rollout = cluster.rollout.model_copy(update={"engines": min(cluster.rollout.engines, cluster.rollout.min_engines)})
    return config.model_copy(update={"cluster": cluster.model_copy(update={"rollout": rollout})})


def checkpoint_bytes(config: Config, weight_bytes: int) -> int:
    """A checkpoint holds the weights in float32, whatever the model's type, Adam's two moments, the second Adam state
    of `mel.combination=separate` and the slow weights of Reptile. `weight_bytes`: size of the model's weight files."""
    floats = 3
    if config.mel.enabled:
        floats += 2 * (config.mel.combination == "separate") + (config.mel.reptile.every > 0)
    return weight_bytes * (floats if config.model.dtype == "float32" else 2 * floats)


def disk_bytes(config: Config, weight_bytes: int) -> int:
    """Disk space a run needs: its checkpoints, one more while it is written, and the export."""
    count = config.checkpoint.keep + 1 + bool(config.checkpoint.keep_best)
    return count * checkpoint_bytes(config, weight_bytes) + weight_bytes + (8 << 20)
