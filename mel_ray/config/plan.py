"""From configuration to the plan of a run: pools, actors, what each asks of Ray, and the batch arithmetic."""

from dataclasses import dataclass

from mel_ray.config.schema import Config


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """`cpus` and `gpus` per actor, as asked of Ray."""

    name: str
    kind: str
    actors: int
    cpus: float
    gpus: int


@dataclass(frozen=True, slots=True)
class Plan:
    pools: tuple[PoolPlan, ...]
    trajectories: int
    trajectories_per_update: int

    @property
    def cpus(self) -> float:
        return sum(pool.actors * pool.cpus for pool in self.pools)

    @property
    def gpus(self) -> int:
        return sum(pool.actors * pool.gpus for pool in self.pools)


def make_plan(config: Config) -> Plan:
    """What a run will start; `--check` prints it, the pools are built from the same configuration."""
    cluster = config.cluster
    is_cuda = cluster.device == "cuda"
    engine = "vLLM, in process" if cluster.rollout.in_process else "vLLM AsyncLLM"
    engine_gpus = cluster.rollout.tensor_parallel if is_cuda else 0
    borrowed = "borrows the rollout pool's engines" if not cluster.experience.engines else "own engines"
    pools = [
        PoolPlan("rollout", engine, cluster.rollout.engines, cluster.rollout.cpus, engine_gpus),
        PoolPlan("verifier", "Math-Verify in killable processes", cluster.verifier.actors, cluster.verifier.cpus, 0),
        PoolPlan("experience", borrowed, cluster.experience.actors, cluster.experience.cpus, 0),
        PoolPlan("policy", "DeepSpeed ZeRO-3", cluster.policy.ranks, cluster.policy.cpus, int(is_cuda)),
    ]
    if config.mel.enabled and cluster.experience.engines:
        pools.insert(
            3, PoolPlan("experience engines", engine, cluster.experience.engines, cluster.rollout.cpus, engine_gpus)
        )
    trajectories = config.rollout.prompts_per_step * config.rollout.group_size
    return Plan(tuple(pools), trajectories, trajectories // config.algorithm.minibatches)
