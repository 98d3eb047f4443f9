"""python -m benchmarks.async_step: what it brings to explore and learn at the same time, on real pools.

The engine and the policy are each confined to one core, so that they stand for disjoint devices. Arms take turns in
one run: synchronous (capacity 0), capacity 1, capacity 1 with updates in flight, and partial rollouts. The bound of
overlapping is (explore + learn) / max(explore, learn), from the synchronous arm. Two workloads: the embedded one, and
completions with a long tail (cap 512). Beside it the usual layout, in which every phase has both cores.
"""

import argparse
import asyncio
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import long_context_model, loop_for, running_pools
from benchmarks.figures import finish, median
from mel_ray.config.load import compose_config
from mel_ray.data.prepare import Prepared
from mel_ray.driver.state import RunState
from mel_ray.driver.wiring import Pools

ARMS: dict[str, tuple[str, ...]] = {
    "synchronous": (),
    "capacity_1": ("driver.capacity=1",),
    "in_flight": ("driver.capacity=1", "driver.publish=in_flight"),
    "partial": ("driver.capacity=1", "driver.publish=in_flight", "rollout.partial=true"),
}
WORKLOADS = {"embedded": (96, 1.0), "long_tail": (512, 0.28)}  # cap in tokens, end-token scale
CONFINED = ("cluster.rollout.engines=1", "cluster.policy.threads=1")


def confine(actor: Any, core: int) -> None:
    """All threads of this process to one core."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {core})


def confine_pools(pools: Pools) -> None:
    import ray

    cores = sorted(os.sched_getaffinity(0))
    places = [(engine.handle.actor, cores[0]) for engine in pools.engines.engines]
    places += [(handle.actor, cores[1]) for handle in pools.policy.handles]
    ray.get([actor.__ray_call__.remote(confine, core) for actor, core in places])


class Arm:
    """A loop with driver settings of its own on shared pools; a block of steps at a time."""

    def __init__(self, name: str, overrides: Sequence[str]) -> None:
        self.name, self.config = name, compose_config(overrides)
        self.steps: list[dict[str, float]] = []
        self._blocks: list[float] = []
        self._done = 0

    async def block(self, prepared: Prepared, pools: Pools, steps: int, version: int) -> int:
        """Returns the version the engines have afterwards. The first step fills the pipeline and is not counted."""
        run = self.config.run.model_copy(update={"steps": self._done + steps + 1})
        state = RunState(step=self._done, version=version)
        loop = loop_for(self.config.model_copy(update={"run": run}), prepared, pools, state)
        reports = [await loop.step(step) for step in range(self._done + 1, self._done + steps + 2)][1:]
        self.steps += [dict(report.metrics) for report in reports]
        self._blocks.append(sum(report.metrics["time/step"] for report in reports) / steps)
        self._done += steps + 1
        return state.version

    @property
    def seconds(self) -> float:
        """Of a step: the median over blocks of their means."""
        return median(self._blocks)

    def median(self, name: str) -> float:
        return median([row.get(name, 0.0) for row in self.steps])


async def measure_arms(overrides: Sequence[str], arms: dict[str, tuple[str, ...]], rounds: int, steps: int,
                       is_confined: bool) -> dict[str, Arm]:  # fmt: skip
    own = [*overrides, *(CONFINED if is_confined else ())]
    async with running_pools(own) as (_, prepared, pools):
        if is_confined:
            confine_pools(pools)
        found, version = {name: Arm(name, [*own, *extra]) for name, extra in arms.items()}, 0
        for _ in range(rounds):
            for arm in found.values():
                version = await arm.block(prepared, pools, steps, version)
    return found


def reported(name: str, arms: dict[str, Arm], usual: Arm) -> dict[str, float]:
    base = arms["synchronous"]
    explore, learn = base.median("time/explore"), base.median("time/train") + base.median("time/publish")
    bound = (explore + learn) / max(explore, learn)
    print(f"{name}: explore {explore:.2f} s, learn {learn:.2f} s, so overlapping brings at most {bound:.2f}x")
    figures = {f"{name}_explore_s": explore, f"{name}_learn_s": learn, f"{name}_bound": bound}
    for figure in ("mean", "max"):
        figures[f"{name}_tokens_{figure}"] = base.median(f"rollout/length_{figure}")
    for arm in arms.values():
        speedup = base.seconds / arm.seconds
        waits = ", ".join(f"{what} {arm.median(f'time/{what}'):.2f} s" for what in ("wait", "room", "publish"))
        print(f"  {arm.name:<12} step {arm.seconds:.2f} s  {speedup:.2f}x, {speedup / bound:.0%} of bound; {waits}, "
              f"staleness {arm.median('staleness/mean'):.2f}", flush=True)  # fmt: skip
        figures |= {f"{name}_{arm.name}_step_s": arm.seconds, f"{name}_{arm.name}_speedup": speedup}
    print(f"  usual layout, both cores in every phase: step {usual.seconds:.2f} s", flush=True)
    return figures | {f"{name}_usual_layout_step_s": usual.seconds}


def overrides_of(model: Path, cap: int, extra: Sequence[str]) -> list[str]:
    return [
        f"model.path={model}", "model.max_context=640", f"rollout.max_tokens={cap}", "algorithm.lr=1e-6",
        "algorithm.importance_cap=2", "eval.benchmarks=[]", "eval.max_tokens=64", *extra,
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="blocks of every arm")
    parser.add_argument("--steps", type=int, default=6, help="counted steps of a block")
    parser.add_argument("--workload", choices=WORKLOADS, help="this one alone")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    figures: dict[str, float] = {}
    for name, (cap, end_scale) in WORKLOADS.items():
        if arguments.workload not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            own = overrides_of(long_context_model(Path(scratch) / "model", end_scale), cap, arguments.overrides)
            arms = asyncio.run(measure_arms(own, ARMS, arguments.rounds, arguments.steps, is_confined=True))
            usual = asyncio.run(measure_arms(own, {"synchronous": ()}, 1, arguments.steps, is_confined=False))
            figures |= reported(name, arms, usual["synchronous"])
    finish(figures)


if __name__ == "__main__":
    main()
