"""python -m benchmarks.pays_table [--parts ...]: when lessons pay, in the world of many rules; resumable; hours.

Every arm's learning rate is tuned on a seed that is not reported, by mean Avg@8 over the three bands at the last step.
Differences are paired by seed, with 95% intervals by Student's t. Runs that are already in the output folder are not
made again. The last line is one JSON object with every figure.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev

from benchmarks.figures import finish
from benchmarks.pays_arms import BANDS, BENCHMARKS, CONTROLS, EVERY, GRPO, PRIMARY, RESAMPLED, SECONDARY, STEPS, Arm
from benchmarks.study import Result, Run, Study

LEARNING_RATES = ("4e-4", "8e-4", "1.6e-3")
TUNING_SEED = 100
SHOWN = (20, 40, STEPS)  # steps
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}  # by seeds
Results = dict[str, list[Result]]


def run_of(arm: Arm, lr: str, seed: int) -> Run:
    return Run(arm.name, (*arm.all_overrides, f"algorithm.lr={lr}"), seed)


def score(result: Result, benchmark: str, step: int = STEPS) -> float:
    return result.score(f"{benchmark}/avg@8", step)


def over_bands(result: Result, step: int = STEPS) -> float:
    return fmean(score(result, band, step) for band in BANDS)


def tuned(study: Study, arms: Sequence[Arm]) -> dict[str, str]:
    """Arm -> learning rate; prints what was tried."""
    pairs = [(arm, lr) for arm in arms for lr in LEARNING_RATES]
    results = study.results([run_of(arm, lr, TUNING_SEED) for arm, lr in pairs])
    scores = {(arm.name, lr): over_bands(result) for (arm, lr), result in zip(pairs, results, strict=True)}
    print(f"\nmean Avg@8 over the bands after {STEPS} steps, seed {TUNING_SEED}, by learning rate\n")
    print("| arm | " + " | ".join(LEARNING_RATES) + " |\n" + "|---" * (1 + len(LEARNING_RATES)) + "|")
    for arm in arms:
        print(f"| {arm.name} | " + " | ".join(f"{scores[arm.name, lr]:.3f}" for lr in LEARNING_RATES) + " |")
    return {arm.name: max(LEARNING_RATES, key=lambda lr: scores[arm.name, lr]) for arm in arms}


def measured(study: Study, arms: Sequence[Arm], rates: dict[str, str], seeds: Sequence[int]) -> Results:
    """Seed by seed, so that a study cut short has all arms of the first seeds."""
    runs = [run_of(arm, rates[arm.name], seed) for seed in seeds for arm in arms]
    by_arm: Results = {arm.name: [] for arm in arms}
    for run, result in zip(runs, study.results(runs), strict=True):
        by_arm[run.arm].append(result)
    return by_arm


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95% interval."""
    if len(values) < 2:
        return values[0], float("inf")
    return fmean(values), T_95[len(values)] * stdev(values) / len(values) ** 0.5


def difference(one: Sequence[Result], other: Sequence[Result], benchmark: str, step: int) -> tuple[float, float]:
    """In points, paired by seed."""
    return interval(
        [100 * (score(a, benchmark, step) - score(b, benchmark, step)) for a, b in zip(one, other, strict=True)]
    )


def marked(found: tuple[float, float]) -> str:
    """Bold where the interval is clear of zero."""
    mean, half = found
    text = f"{mean:+.1f} ± {half:.1f}"
    return f"**{text}**" if abs(mean) > half else text


def tokens_until(result: Result, level: float) -> float | None:
    """Sampled tokens until the hidden band first reaches a level; None if it never does."""
    for step in range(EVERY, STEPS + 1, EVERY):
        if score(result, BANDS[0], step) >= level:
            return sum(result.series["tokens"][:step])  # type: ignore[arg-type]
    return None


def levels(results: Results, rates: dict[str, str]) -> Iterator[str]:
    """Avg@8 by band and step, with what it cost."""
    steps = " | ".join(f"hidden, {step}" for step in SHOWN)
    yield f"| arm | lr | {steps} | rare, {STEPS} | even, {STEPS} | never asked, {STEPS} | tokens | to GRPO's level |"
    yield "|---" * (len(SHOWN) + 7) + "|"
    level = fmean(score(one, BANDS[0]) for one in results[GRPO.name])
    cost = fmean(one.tokens for one in results[GRPO.name])
    for name, found in results.items():
        cells = [f"{fmean(score(one, BANDS[0], step) for one in found):.3f}" for step in SHOWN]
        cells += [f"{fmean(score(one, benchmark) for one in found):.3f}" for benchmark in BENCHMARKS[1:]]
        until = [tokens_until(one, level) for one in found]
        reached = [one for one in until if one is not None]
        share = f"{fmean(reached) / cost:.2f}x" if len(reached) == len(until) else f"{len(reached)} of {len(until)}"
        tokens = f"{fmean(one.tokens for one in found) / 1000:.0f}k"
        yield f"| {name} | {rates[name]} | {' | '.join([*cells, tokens, share])} |"


def differences(results: Results, others: Sequence[Arm]) -> Iterator[str]:
    """Of every arm to the controls, in points."""
    columns = [(BANDS[0], step) for step in SHOWN] + [(band, STEPS) for band in BANDS[1:]]
    named = [f"{band.removeprefix('rules_')}, {step}" for band, step in columns]
    yield f"| difference | {' | '.join(named)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for name, found in results.items():
        for other in others:
            if name != other.name and other.name in results:
                cells = [marked(difference(found, results[other.name], band, step)) for band, step in columns]
                yield f"| {name} - {other.name} | {' | '.join(cells)} |"


def thirds(values: Sequence[float | None]) -> list[str]:
    """Means over the first, second and last third of a run; - where nothing was kept."""
    size = len(values) // 3
    parts = [[one for one in values[n * size : (n + 1) * size] if one is not None] for n in range(3)]
    return [f"{fmean(part):.2f}" if part else "-" for part in parts]


def lessons(results: Results) -> Iterator[str]:
    """What was kept, by thirds of the run."""
    names = {
        "mel/right_rule_share": "right rule among kept", "mel/drafts_right_rule_share": "among drafts",
        "mel/replay_pass/none": "replays that pass in all-wrong groups", "mel/kept": "kept a step",
    }  # fmt: skip
    yield f"| arm | {' | '.join(names.values())} |"
    yield "|---" * (len(names) + 1) + "|"
    for name, found in results.items():
        if any(one.kept for one in found):
            cells = []
            for metric in names:
                by_step = [[one.series[metric][step] for one in found] for step in range(STEPS)]
                known = [[value for value in values if value is not None] for values in by_step]
                cells.append(", ".join(thirds([fmean(values) if values else None for values in known])))
            yield f"| {name} | {' | '.join(cells)} |"


def show(title: str, lines: Iterator[str]) -> None:
    print(f"\n{title}\n")
    print("\n".join(lines), flush=True)


def figures(results: Results) -> dict[str, dict[str, list[float]]]:
    return {
        arm: {
            f"{benchmark}@{step}": [round(score(one, benchmark, step), 4) for one in found]
            for benchmark in BENCHMARKS
            for step in SHOWN
        }
        | {"tokens": [one.tokens for one in found]}
        for arm, found in results.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/pays_table"), help="where results are kept")
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time, one core each")
    parser.add_argument("--seeds", type=int, default=5, choices=sorted(T_95))
    parser.add_argument("--secondary-seeds", type=int, default=3, choices=sorted(T_95))
    parser.add_argument("--parts", nargs="+", default=["primary", "secondary"], choices=["primary", "secondary"])
    options = parser.parse_args()
    options.secondary_seeds = min(options.secondary_seeds, options.seeds)
    study = Study(options.output, options.parallel)
    rates = tuned(study, PRIMARY)
    results = measured(study, PRIMARY, rates, range(options.seeds))
    show(f"{options.seeds} seeds, Avg@8", levels(results, rates))
    show("paired by seed, in points, with 95% intervals", differences(results, (GRPO, *CONTROLS)))
    show("lessons, by thirds of a run", lessons(results))
    everything: dict[str, object] = {"steps": STEPS, "tuned_lr": rates, "primary": figures(results)}
    if "secondary" in options.parts:
        rates |= tuned(study, SECONDARY)
        others = measured(study, SECONDARY, rates, range(options.secondary_seeds))
        first = {name: found[: options.secondary_seeds] for name, found in results.items()}
        together = {GRPO.name: first[GRPO.name], RESAMPLED.name: first[RESAMPLED.name], **others}
        show(f"{options.secondary_seeds} seeds, Avg@8", levels(together, rates))
        show("paired by seed, in points, with 95% intervals", differences(together, (GRPO, RESAMPLED)))
        show("lessons, by thirds of a run", lessons(others))
        everything |= {"tuned_lr": rates, "secondary": figures(others)}
    finish(everything)
    (options.output / "figures.json").write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
