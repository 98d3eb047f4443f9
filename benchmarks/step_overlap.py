"""python -m benchmarks.step_overlap: what MEL costs over GRPO, and what streaming per question saves.

Three arms take turns on the same engines, the same questions and frozen weights (lr=0, so that every round
does the same work): GRPO; MEL as it is, each question flowing through the pools on its own; and MEL stage by
stage, every stage waiting for the whole batch. Prints medians and ratios of one run.
"""

import argparse
import asyncio
import time
from collections.abc import Sequence

from benchmarks.common import finish, loop_for, median, running_pools
from mel_ray.config.schema import Config
from mel_ray.data.prepare import Prepared
from mel_ray.driver.buffer import Buffer
from mel_ray.driver.explorer import Explorer
from mel_ray.driver.loop import Loop
from mel_ray.driver.wiring import Pools
from mel_ray.mel.replay import prove
from mel_ray.records.row import Explored, is_mixed


class StagedExplorer(Explorer):
    """The same stages with a barrier after each: what most systems do."""

    async def batch(self, step: int) -> list[Explored]:
        gather, prompts = asyncio.gather, self.data.take(self.cfg.rollout.prompts_per_step)
        groups = await gather(*(self.rollout.generate(prompt, self._sampling(prompt, step)) for prompt in prompts))
        judged = await gather(*(self.rewards.judge(group) for group in groups))
        mixed = [i for i, rows in enumerate(judged) if is_mixed(rows)]
        drafted = await gather(*(self.experience.abstract(judged[i], step) for i in mixed))
        parsed = [draft for drafts in drafted for draft in drafts if draft.fate is None]
        replays = await gather(*(self.experience.replay(draft, step) for draft in parsed))
        verdicts = await gather(*(self.rewards.judge(replay) for replay in replays))
        of_draft = {draft.sample: rows for draft, rows in zip(parsed, verdicts, strict=True)}
        explored: list[Explored] = list(judged)
        for i, drafts in zip(mixed, drafted, strict=True):
            own = [of_draft.get(draft.sample, ()) for draft in drafts]
            explored[i] = (*judged[i], *prove(drafts, own, self.cfg.mel.min_correct_replays))
        return explored


def staged_loop_for(config: Config, prepared: Prepared, pools: Pools) -> Loop:
    loop = loop_for(config, prepared, pools)
    loop.buffer = Buffer(StagedExplorer(config, loop.data, pools.rollout, pools.rewards, pools.experience).batch)
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
