"""python -m benchmarks.step_overlap: what MEL costs over GRPO, and what streaming per question saves.

Three arms take turns on the same engines, the same questions and frozen weights (lr=0, so that every round
does the same work): GRPO; MEL as it is, each question flowing through the pools on its own; and MEL stage by
stage, every stage waiting for the whole batch. Prints medians and ratios of one run.

Then, with the engine and the policy on a core each, MEL that explores ahead, against the time that its own tokens
take at GRPO's rates: sampled tokens at the rate of GRPO's exploring, trained tokens at the rate of GRPO's learning,
the larger of the two because the halves overlap. GRPO's rates are taken twice: where its halves alternate, so that each
has the machine to itself, and where they overlap as MEL's do.
"""

import argparse
import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.async_step import Arm, measure_arms
from benchmarks.common import loop_for, running_pools
from benchmarks.figures import finish, median
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

OVERLAPPED: dict[str, tuple[str, ...]] = {
    "grpo": ("mel.enabled=false",),
    "grpo_capacity_1": ("mel.enabled=false", "driver.capacity=1"),
    "mel_capacity_1": ("driver.capacity=1",),
    "mel_partial": ("driver.capacity=1", "driver.publish=in_flight", "rollout.partial=true"),
}
SAMPLED = ("tokens/rollout", "tokens/experience")


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


def total(arm: Arm, *names: str) -> float:
    return sum(row.get(name, 0.0) for row in arm.steps for name in names)


def rates(arm: Arm) -> tuple[float, float]:
    """Tokens sampled per second of exploring, and trained on per second of learning."""
    sampled = total(arm, *SAMPLED) / total(arm, "time/explore")
    return sampled, total(arm, "tokens/trained") / total(arm, "time/train", "time/publish")


def against_own_tokens(arms: dict[str, Arm]) -> dict[str, float]:
    for arm in arms.values():
        phases = {name: arm.median(f"time/{name}") for name in ("explore", "wait", "room", "train", "publish")}
        print(f"{arm.name}: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in phases.items()))
    figures = {f"{name}_confined_step_s": arm.seconds for name, arm in arms.items()}
    for base in ("grpo", "grpo_capacity_1"):
        sampled_per_s, trained_per_s = rates(arms[base])
        figures |= {f"{base}_sampled_per_s": sampled_per_s, f"{base}_trained_per_s": trained_per_s}
        for name in ("mel_capacity_1", "mel_partial"):
            arm = arms[name]
            halves = total(arm, *SAMPLED) / sampled_per_s, total(arm, "tokens/trained") / trained_per_s
            ratio = total(arm, "time/step") / max(halves)
            print(f"{name}: {total(arm, 'time/step'):.1f} s; at the rates of {base} its sampled tokens take "
                  f"{halves[0]:.1f} s and its trained tokens {halves[1]:.1f} s: {ratio:.2f}x")  # fmt: skip
            figures[f"{name}_over_own_tokens_at_{base}"] = ratio
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="steps of every arm")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    figures = asyncio.run(measure(arguments.rounds, arguments.overrides))
    own = ["algorithm.lr=0", "algorithm.importance_cap=2", *arguments.overrides]
    blocks = max(1, arguments.rounds // 5)
    finish(figures | against_own_tokens(asyncio.run(measure_arms(own, OVERLAPPED, blocks, 5, is_confined=True))))


if __name__ == "__main__":
    main()
