"""python -m benchmarks.step_overlap: what MEL costs over GRPO, and what streaming per question saves.

Three arms take turns on the same engines, the same questions and frozen weights (lr=0, so that every round
does the same work): GRPO; MEL as it is, each question flowing through the pools on its own; and MEL stage by
stage, every stage waiting for the whole batch. Prints medians and ratios of one run.
"""

import argparse
import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.common import finish, loop_for, median, running_pools
from mel_ray.config.schema import Config
from mel_ray.data.prepare import Prepared
from mel_ray.driver.batches import Batches
from mel_ray.driver.buffer import Buffer
from mel_ray.driver.explorer import Explorer
from mel_ray.driver.loop import Loop
from mel_ray.driver.wiring import Pools
from mel_ray.mel.replay import prove
from mel_ray.records.row import Explored, is_mixed
from mel_ray.records.trajectory import Prompt


class StagedExplorer(Explorer):
    """The same stages with a barrier after each: what most systems do. For batches of fixed questions."""

    def __init__(self, cfg: Config, *parts: Any) -> None:
        super().__init__(cfg, *parts)
        self._barriers: dict[tuple[int, str], asyncio.Barrier] = defaultdict(
            lambda: asyncio.Barrier(cfg.rollout.prompts_per_step)
        )

    async def explore(self, prompt: Prompt, step: int) -> Explored:
        group = await self.rollout.generate(prompt, self._sampling(prompt, step))
        await self._barriers[step, "rollouts"].wait()
        judged = await self.rewards.judge(group)
        await self._barriers[step, "verdicts"].wait()
        if not self.cfg.mel.enabled:
            return judged
        drafts = await self.experience.abstract(judged, step) if is_mixed(judged) else ()
        await self._barriers[step, "drafts"].wait()
        replays = await asyncio.gather(*(self.experience.replay(draft, step) for draft in drafts if draft.fate is None))
        await self._barriers[step, "replays"].wait()
        verdicts = iter(await asyncio.gather(*(self.rewards.judge(own) for own in replays)))
        judged_replays = [() if draft.fate else next(verdicts) for draft in drafts]
        return (*judged, *prove(drafts, judged_replays, self.cfg.mel.min_correct_replays))


def staged_loop_for(config: Config, prepared: Prepared, pools: Pools) -> Loop:
    loop = loop_for(config, prepared, pools)
    explorer = StagedExplorer(config, pools.rollout, pools.rewards, pools.experience)
    loop.buffer = Buffer(Batches(explorer.explore, loop.data, config), config.driver.capacity, config.run.steps)
    return loop


def without_mel(config: Config) -> Config:
    return config.model_copy(update={"mel": config.mel.model_copy(update={"enabled": False})})


async def measure(rounds: int, overrides: Sequence[str]) -> dict[str, float]:
    async with running_pools(["algorithm.lr=0", *overrides]) as (config, prepared, pools):
        arms = {
            "grpo": loop_for(without_mel(config), prepared, pools),
            "mel": loop_for(config, prepared, pools),
            "mel_staged": staged_loop_for(config, prepared, pools),
        }
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        explore: dict[str, list[float]] = {name: [] for name in arms}
        for step in range(1, rounds + 2):
            for name, loop in arms.items():
                started = time.monotonic()
                report = await loop.step(step)
                if step > 1:  # the first round warms up
                    seconds[name].append(time.monotonic() - started)
                    explore[name].append(report.metrics["time/explore"])
        step_medians = {name: median(values) for name, values in seconds.items()}
        explore_medians = {name: median(values) for name, values in explore.items()}
    for name in step_medians:
        print(f"{name:<12} step {step_medians[name]:.3f} s   explore {explore_medians[name]:.3f} s")
    return {
        "rounds": rounds,
        **{f"{name}_step_s": value for name, value in step_medians.items()},
        **{f"{name}_explore_s": value for name, value in explore_medians.items()},
        "mel_over_grpo_step": step_medians["mel"] / step_medians["grpo"],
        "mel_over_grpo_explore": explore_medians["mel"] / explore_medians["grpo"],
        "staged_over_streaming_step": step_medians["mel_staged"] / step_medians["mel"],
        "staged_over_streaming_explore": explore_medians["mel_staged"] / explore_medians["mel"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    finish(asyncio.run(measure(arguments.rounds, arguments.overrides)))


if __name__ == "__main__":
    main()
