"""python -m benchmarks.async_table: the table of docs/async.md; resumable; about 40 minutes on two cores.

The embedded default at staleness 0, 1, 2 and 4 (so many batches are explored ahead), with and without importance
weights, equal rollouts, five seeds. Runs that are already in the output folder are not made again.
"""

import argparse
from pathlib import Path
from statistics import fmean, stdev

from benchmarks.embedded_arms import STEPS, Arm
from benchmarks.embedded_table import SCORES
from benchmarks.figures import finish
from benchmarks.study import Result, Run, Study, mean_and_error

CAP = "algorithm.importance_cap=2"
ARMS = (
    Arm("0", ()),
    *(
        Arm(f"{staleness}, {name}", (f"driver.capacity={staleness}", *correction))
        for staleness in (1, 2, 4)
        for name, correction in (("uncorrected", ()), ("corrected", (CAP,)))
    ),
)


def difference(found: list[Result], base: list[Result]) -> tuple[float, float]:
    """Of Avg@8, paired by seed: the mean and its standard error."""
    values = [one.score("avg@8") - other.score("avg@8") for one, other in zip(found, base, strict=True)]
    return fmean(values), stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/async_table"), help="where results are kept")
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time, one core each")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    runs = [Run(arm.name, arm.all_overrides, seed) for seed in range(options.seeds) for arm in ARMS]
    by_arm: dict[str, list[Result]] = {arm.name: [] for arm in ARMS}
    for run, result in zip(runs, Study(options.output, options.parallel).results(runs), strict=True):
        by_arm[run.arm].append(result)
    print(f"\n{options.seeds} seeds, {STEPS} steps, mean ± standard error\n")
    print("| staleness | reward, last 5 steps | Pass@1 greedy | Avg@8 | Pass@8 | Avg@8, paired difference |")
    print("|---|---|---|---|---|---|")
    figures: dict[str, object] = {"steps": STEPS}
    for name, found in by_arm.items():
        scores = [mean_and_error([one.score(score) for one in found]) for score in SCORES]
        mean, error = difference(found, by_arm["0"])
        rewards = mean_and_error([fmean(one.rewards[-5:]) for one in found])
        print("| " + " | ".join([name, rewards, *scores, f"{mean:+.3f} ± {error:.3f}" if name != "0" else ""]) + " |")
        figures[name] = {score: [round(one.score(score), 4) for one in found] for score in SCORES}
    finish(figures)


if __name__ == "__main__":
    main()
