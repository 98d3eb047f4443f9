"""What the benchmarks share: local Ray with the pools of a configuration, medians, and the closing JSON line."""

import json
import platform
import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mel_ray.config.load import compose_config
from mel_ray.config.schema import Config
from mel_ray.data.prompts import PromptStream
from mel_ray.run.checkpoints import Checkpoints
from mel_ray.driver.state import DriverState
from mel_ray.driver.step import Stepper
from mel_ray.data.prepare import Prepared, prepare
from mel_ray.records.evaluation import Answered
from mel_ray.records.exploration import Exploration, GroupTicket
from mel_ray.records.verdict import GroupVerdict
from mel_ray.driver.wiring import Pools, connected_to_ray


class NoArchive:
    """Nothing is written while we measure."""

    async def record(self, step: int, explored: Sequence[Exploration]) -> None:
        return None


class NoCheckpoints(Checkpoints):
    """Nothing is saved either."""

    def __init__(self) -> None:
        super().__init__(Path(), 1, [])

    async def save(self, state: DriverState) -> None:
        return None


class NoJournal:
    """Answers of an evaluation are not kept, nor known."""

    def find(self, question_id: str, temperature: float, count: int) -> Answered | None:
        return None

    async def add(self, group: GroupTicket, verdict: GroupVerdict, temperature: float) -> None:
        return None

    async def close(self) -> None:
        return None


class NoJournals:
    def open(self, benchmark: str, step: int) -> NoJournal:
        return NoJournal()


@asynccontextmanager
async def running_pools(overrides: Sequence[str]) -> AsyncIterator[tuple[Config, Prepared, Pools]]:
    """Pools for the overrides, ready and with their first weights published."""
    config = compose_config(overrides)
    prepared = prepare(config)
    with connected_to_ray(config):
        pools = Pools(config, prepared.model_folder, Path("/tmp/mel_ray_benchmark_logs"))
        await pools.ready()
        await pools.policy.publish(0)
        yield config, prepared, pools


def stepper_for(kind: type[Stepper], config: Config, prepared: Prepared, pools: Pools) -> Stepper:
    data = PromptStream(prepared.prompts.prompts, config.run.seed)
    return kind(config, data, pools.rollout, pools.verifier, pools.experience, pools.policy, pools.engines, NoArchive())


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def finish(figures: dict[str, Any]) -> None:
    """The last line: one JSON object."""
    machine = {"cpus": len(__import__("os").sched_getaffinity(0)), "python": platform.python_version()}
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps(rounded | {"machine": machine}))
