"""python -m benchmarks.step_overlap: what MEL costs over GRPO, and what streaming per question saves.

Three arms take turns on the same engines, the same questions and frozen weights (lr=0, so that every round
does the same work): GRPO; MEL as it is, each question flowing through the pools on its own; and MEL stage by
stage, every stage waiting for the whole batch. Prints medians and ratios of one run.
"""

import argparse
import asyncio
import time
from collections.abc import Sequence

from benchmarks.common import finish, median, running_pools, stepper_for
from mel_ray.config.schema import Config
from mel_ray.driver.step import Stepper
from mel_ray.mel.replay import proven
from mel_ray.records.exploration import Exploration
from mel_ray.records.trajectory import Prompt


class StagedStepper(Stepper):
    """The same stages with a barrier after each: what most systems do."""

    async def _explore_all(self, prompts: Sequence[Prompt], step: int) -> list[Exploration]:
        gather = asyncio.gather
        groups = await gather(*(self.rollout.generate(p, self._sampling(p, step)) for p in prompts))
        verdicts = await gather(*(self.verifier.judge(group) for group in groups))
        mixed = [i for i, verdict in enumerate(verdicts) if verdict.is_mixed]
        drafted = await gather(*(self.experience.abstract(groups[i], verdicts[i], step) for i in mixed))
        drafts = dict(zip(mixed, drafted, strict=True))
        parsed = [(i, draft) for i, ds in drafts.items() for draft in ds if draft.facts.state == "parsed"]
        replays = await gather(*(self.experience.replay(draft, step) for _, draft in parsed))
        judged = await gather(*(self.verifier.judge(replay.group) for replay in replays))
        explorations = []
        for i, (group, verdict) in enumerate(zip(groups, verdicts, strict=True)):
            mine = [k for k, (owner, _) in enumerate(parsed) if owner == i]
            lessons = proven(drafts.get(i, ()), [replays[k] for k in mine], [judged[k] for k in mine],
                             self.cfg.mel.min_correct_replays)  # fmt: skip
            explorations.append(Exploration(group, verdict, lessons))
        return explorations


def without_mel(config: Config) -> Config:
    return config.model_copy(update={"mel": config.mel.model_copy(update={"enabled": False})})


async def measure(rounds: int, overrides: Sequence[str]) -> dict[str, float]:
    async with running_pools(["algorithm.lr=0", *overrides]) as (config, prepared, pools):
        arms = {
            "grpo": stepper_for(Stepper, without_mel(config), prepared, pools),
            "mel": stepper_for(Stepper, config, prepared, pools),
            "mel_staged": stepper_for(StagedStepper, config, prepared, pools),
        }
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        explore: dict[str, list[float]] = {name: [] for name in arms}
        for step in range(1, rounds + 2):
            for name, stepper in arms.items():
                started = time.monotonic()
                report = await stepper.step(step)
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
