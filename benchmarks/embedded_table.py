"""python -m benchmarks.embedded_table [--parts ...]: the table of docs/embedded.md; resumable; hours on two cores.

Every arm's learning rate is tuned on a seed that is not reported; then five seeds each. Runs that are already in the
output folder are not made again. The last line is one JSON object with every figure.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from benchmarks.embedded_arms import ABLATIONS, ARMS, PAIRS, REGIME_ARMS, REGIMES, STEPS, Arm
from benchmarks.figures import finish
from benchmarks.study import Result, Run, Study, mean_and_error

LEARNING_RATES = ("4e-4", "8e-4", "1.6e-3")
TUNING_SEED, SCORES = 100, ("pass@1", "avg@8", "pass@8")
PARTS = ["table", "ablations", "regimes"]
Choose = Callable[[Arm], str]


def run_of(arm: Arm, lr: str, seed: int) -> Run:
    return Run(arm.name, (*arm.all_overrides, f"algorithm.lr={lr}"), seed)


def tuned(study: Study, arms: Sequence[Arm]) -> dict[str, str]:
    """Arm -> the learning rate with the best Avg@8 on the tuning seed; prints what was tried."""
    pairs = [(arm, lr) for arm in arms for lr in LEARNING_RATES]
    results = study.results([run_of(arm, lr, TUNING_SEED) for arm, lr in pairs])
    scores = {(arm.name, lr): result.score("avg@8") for (arm, lr), result in zip(pairs, results, strict=True)}
    print(f"\nAvg@8 after {STEPS} steps, seed {TUNING_SEED}, by learning rate\n")
    print("| arm | " + " | ".join(LEARNING_RATES) + " |\n" + "|---" * (1 + len(LEARNING_RATES)) + "|")
    for arm in arms:
        print(f"| {arm.name} | " + " | ".join(f"{scores[arm.name, lr]:.3f}" for lr in LEARNING_RATES) + " |")
    return {arm.name: max(LEARNING_RATES, key=lambda lr: scores[arm.name, lr]) for arm in arms}


def at_partners_rates(rates: dict[str, str]) -> list[Arm]:
    """Paradigms whose rate came out different with meta-experience, to be measured at that rate too; adds to
    `rates`."""
    overrides = {arm.name: arm.overrides for arm in ARMS}
    added = [
        (Arm(f"{plain}, at the rate of {partner}", overrides[plain]), rates[partner])
        for plain, partner in PAIRS
        if rates[plain] != rates[partner]
    ]
    rates |= {arm.name: lr for arm, lr in added}
    return [arm for arm, _ in added]


def measured(study: Study, arms: Sequence[Arm], lr_of: Choose, seeds: Sequence[int]) -> dict[str, list[Result]]:
    """All seeds of all arms; seed by seed, so that a study cut short has all arms of the first seeds."""
    runs = [run_of(arm, lr_of(arm), seed) for seed in seeds for arm in arms]
    by_arm: dict[str, list[Result]] = {arm.name: [] for arm in arms}
    for run, result in zip(runs, study.results(runs), strict=True):
        by_arm[run.arm].append(result)
    return by_arm


def table(arms: Sequence[Arm], results: dict[str, list[Result]], lr_of: Choose) -> Iterator[str]:
    """Equal rollouts; an arm with two updates a step has a second line at equal updates."""
    yield "| arm | lr | updates | reward, last 5 steps | Pass@1 greedy | Avg@8 | Pass@8 | kept |"
    yield "|---|---|---|---|---|---|---|---|"
    for arm in arms:
        for step in (STEPS, STEPS // 2) if arm.updates == 2 else (STEPS,):
            found = results[arm.name]
            rewards = [fmean(one.rewards[step - 5 : step]) for one in found]
            scores = [mean_and_error([one.score(name, step) for one in found]) for name in SCORES]
            kept = f"{fmean(one.kept for one in found):.0f}" if step == STEPS else ""
            name = arm.name if step == STEPS else f"{arm.name}, at half the rollouts"
            cells = [name, lr_of(arm), str(arm.updates * step), mean_and_error(rewards), *scores, kept]
            yield "| " + " | ".join(cells) + " |"


def regimes(study: Study, lr: str, seeds: Sequence[int]) -> dict[str, object]:
    """GRPO against meta-experience where it might pay; all arms at GRPO's learning rate."""
    found: dict[str, object] = {}
    for name, changes in REGIMES:
        arms = [replace(arm, overrides=(*arm.overrides, *changes)) for arm in REGIME_ARMS]
        results = measured(study, arms, lambda arm: lr, seeds)
        print(f"\n{name}, {len(seeds)} seeds\n")
        print("\n".join(table(arms, results, lambda arm: lr)))
        found[name] = figures(results)
    return found


def figures(results: dict[str, list[Result]]) -> dict[str, dict[str, list[float]]]:
    return {
        arm: {name: [round(one.score(name), 4) for one in found] for name in SCORES} for arm, found in results.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/embedded_table"), help="where results are kept")
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time, one core each")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ablation-seeds", type=int, default=3)
    parser.add_argument("--regime-seeds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    options = parser.parse_args()
    study = Study(options.output, options.parallel)
    rates = tuned(study, ARMS)
    everything: dict[str, object] = {"steps": STEPS, "tuned_lr": rates}
    if "table" in options.parts:
        arms = [*ARMS, *at_partners_rates(rates)]
        results = measured(study, arms, lambda arm: rates[arm.name], range(options.seeds))
        print(f"\n{options.seeds} seeds, mean ± standard error\n")
        print("\n".join(table(arms, results, lambda arm: rates[arm.name])))
        everything["table"] = figures(results)
    if "ablations" in options.parts:
        lr = rates["GRPO + MEL"]
        arms = (*ARMS[:2], *ABLATIONS)
        results = measured(study, arms, lambda arm: lr, range(options.ablation_seeds))
        print(f"\nvariants of GRPO + MEL at its learning rate, {options.ablation_seeds} seeds\n")
        print("\n".join(table(arms, results, lambda arm: lr)))
        everything["ablations"] = figures(results)
    if "regimes" in options.parts:
        everything["regimes"] = regimes(study, rates["GRPO"], range(options.regime_seeds))
    finish(everything)
    (options.output / "figures.json").write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
