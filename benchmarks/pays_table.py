"""python -m benchmarks.pays_table [--parts ...]: when lessons pay, in the world of many rules; resumable; hours.

Every arm's learning rate is tuned on a seed that is not reported, by mean Avg@8 over the three bands at the last step.
Differences are paired by seed, with 95% intervals by Student's t. Runs that are already in the output folder are not
made again. The last line is one JSON object with every figure.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev

from benchmarks.figures import finish
from benchmarks.pays_arms import (
    AUGMENT,
    BANDS,
    BENCHMARKS,
    CONTROLS,
    EVERY,
    GRPO,
    PRIMARY,
    RESAMPLED,
    RESAMPLED_MORE,
    RESAMPLED_WRONG,
    SECONDARY,
    SELDOM,
    SHOWN,
    STEPS,
    WORLD_ARMS,
    WORLD_BENCHMARK,
    WORLD_STEPS,
    Arm,
)
from benchmarks.study import Result, Run, Study

LEARNING_RATES = ("4e-4", "8e-4", "1.6e-3")
TUNING_SEED = 100
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}  # by seeds
OVER_BANDS = f"mean Avg@8 over the bands after {STEPS} steps"
Results = dict[str, list[Result]]


def run_of(arm: Arm, lr: str, seed: int) -> Run:
    return Run(arm.name, (*arm.all_overrides, f"algorithm.lr={lr}"), seed, arm.memory)


def score(result: Result, benchmark: str, step: int = STEPS) -> float:
    return result.score(f"{benchmark}/avg@8", step)


def over_bands(result: Result, step: int = STEPS) -> float:
    return fmean(score(result, band, step) for band in BANDS)


def in_the_world(result: Result) -> float:
    return score(result, WORLD_BENCHMARK, WORLD_STEPS)


def tuned(
    study: Study, arms: Sequence[Arm], measure: Callable[[Result], float] = over_bands, what: str = OVER_BANDS
) -> dict[str, str]:
    """Arm -> learning rate; prints what was tried."""
    pairs = [(arm, lr) for arm in arms for lr in LEARNING_RATES]
    results = study.results([run_of(arm, lr, TUNING_SEED) for arm, lr in pairs])
    scores = {(arm.name, lr): measure(result) for (arm, lr), result in zip(pairs, results, strict=True)}
    print(f"\n{what}, seed {TUNING_SEED}, by learning rate\n")
    print("| arm | " + " | ".join(LEARNING_RATES) + " |\n" + "|---" * (1 + len(LEARNING_RATES)) + "|")
    for arm in arms:
        print(f"| {arm.name} | " + " | ".join(f"{scores[arm.name, lr]:.3f}" for lr in LEARNING_RATES) + " |")
    return {arm.name: max(LEARNING_RATES, key=lambda lr: scores[arm.name, lr]) for arm in arms}


def at_rate(arms: Sequence[Arm], rates: dict[str, str], lr: str) -> list[Arm]:
    """Arms whose own rate came out different, to be measured at this one too; adds to `rates`."""
    added = [Arm(f"{arm.name}, at {lr}", arm.overrides) for arm in arms if rates[arm.name] != lr]
    rates |= {arm.name: lr for arm in added}
    return added


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
    """Sampled tokens until the hidden band has reached a level; None if it never does.

    It counts as reached where the mean of an evaluation and the next one is not below it, so that one lucky evaluation
    does not decide.
    """
    for step in range(EVERY, STEPS + 1, EVERY):
        following = min(step + EVERY, STEPS)
        if fmean([score(result, BANDS[0], step), score(result, BANDS[0], following)]) >= level:
            return sum(result.series["tokens"][:step])  # type: ignore[arg-type]
    return None


def share_of_tokens(found: Sequence[Result], grpo: Sequence[Result]) -> str:
    """Tokens to the level that GRPO ends at with the same seed, as a multiple of those that GRPO took to it."""
    shares = []
    for one, base in zip(found, grpo, strict=True):
        level = score(base, BANDS[0])
        needed, usual = tokens_until(one, level), tokens_until(base, level)
        shares += [needed / usual] if needed and usual else []
    return f"{fmean(shares):.2f}x" if len(shares) == len(found) else f"{len(shares)} of {len(found)}"


def levels(results: Results, rates: dict[str, str]) -> Iterator[str]:
    """Avg@8 by band and step, with what it cost."""
    steps = " | ".join(f"hidden, {step}" for step in SHOWN)
    yield f"| arm | lr | {steps} | rare, {STEPS} | even, {STEPS} | never asked, {STEPS} | tokens | to GRPO's level |"
    yield "|---" * (len(SHOWN) + 7) + "|"
    for name, found in results.items():
        cells = [f"{fmean(score(one, BANDS[0], step) for one in found):.3f}" for step in SHOWN]
        cells += [f"{fmean(score(one, benchmark) for one in found):.3f}" for benchmark in BENCHMARKS[1:]]
        share = share_of_tokens(found, results[GRPO.name])
        tokens = f"{fmean(one.tokens for one in found) / 1000:.0f}k"
        yield f"| {name} | {rates[name]} | {' | '.join([*cells, tokens, share])} |"


def differences(results: Results, others: Sequence[Arm]) -> Iterator[str]:
    """Of every arm to the controls, in points, with the tokens it sampled as a multiple of the control's: a gain counts
    where that is not above 1."""
    columns = [(BANDS[0], step) for step in SHOWN] + [(band, STEPS) for band in BANDS[1:]]
    named = [f"{band.removeprefix('rules_')}, {step}" for band, step in columns]
    yield f"| difference | {' | '.join(named)} | tokens |"
    yield "|---" * (len(columns) + 2) + "|"
    for name, found in results.items():
        for other in others:
            if name != other.name and other.name in results:
                theirs = results[other.name]
                cells = [marked(difference(found, theirs, band, step)) for band, step in columns]
                cells.append(f"{fmean(one.tokens for one in found) / fmean(one.tokens for one in theirs):.2f}x")
                yield f"| {name} - {other.name} | {' | '.join(cells)} |"


def thirds(found: Sequence[Result], metric: str, weight: str | None = None) -> str:
    """Means over the first, second and last third of the runs, weighted by another metric; - where there is nothing."""
    cells, size = [], STEPS // 3
    for part in range(3):
        total = count = 0.0
        for one in found:
            for step in range(part * size, (part + 1) * size):
                value, times = one.series[metric][step], one.series[weight][step] if weight else 1.0
                if value is not None and times:
                    total, count = total + value * times, count + times
        cells.append(f"{total / count:.2f}" if count else "-")
    return ", ".join(cells)


def lessons(results: Results) -> Iterator[str]:
    """What was kept, by thirds of the run; of arms whose replays were shown their own lessons."""
    names = {
        "mel/right_rule_share": "right rule among kept", "mel/drafts_right_rule_share": "among drafts",
        "mel/replay_pass/none": "replays that pass in all-wrong groups", "mel/kept": "kept a step",
    }  # fmt: skip
    weights = {"mel/right_rule_share": "mel/kept"}
    yield f"| arm | {' | '.join(names.values())} |"
    yield "|---" * (len(names) + 1) + "|"
    for name, found in results.items():
        is_control = any("mel.lesson=" in word for word in found[0].run.overrides)
        if any(one.kept for one in found) and not is_control:
            cells = [thirds(found, metric, weights.get(metric)) for metric in names]
            yield f"| {name} | {' | '.join(cells)} |"


def world_levels(results: Results, rates: dict[str, str]) -> Iterator[str]:
    """Avg@8 on held-out problems of the 24 families, with the differences to the first two arms."""
    steps, others = (WORLD_STEPS // 2, WORLD_STEPS), list(results)[:2]
    named = [f"Avg@8, {step}" for step in steps] + [f"to {other}, {WORLD_STEPS}" for other in others]
    yield f"| arm | lr | {' | '.join(named)} | tokens |"
    yield "|---" * (len(named) + 3) + "|"
    for name, found in results.items():
        cells = [f"{fmean(score(one, WORLD_BENCHMARK, step) for one in found):.3f}" for step in steps]
        for other in others:
            gap = difference(found, results[other], WORLD_BENCHMARK, WORLD_STEPS)
            cells.append(marked(gap) if name != other else "")
        yield f"| {name} | {rates[name]} | {' | '.join(cells)} | {fmean(one.tokens for one in found) / 1000:.0f}k |"


def show(title: str, lines: Iterator[str]) -> None:
    print(f"\n{title}\n")
    print("\n".join(lines), flush=True)


def figures(results: Results) -> dict[str, dict[str, list[float]]]:
    return {
        arm: {
            f"{benchmark}@{step}": [round(score(one, benchmark, step), 4) for one in found]
            for benchmark in BENCHMARKS
            for step in SHOWN
            if step % SELDOM.get(benchmark, EVERY) == 0
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
    parts = ["primary", "secondary", "world"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    options = parser.parse_args()
    options.secondary_seeds = min(options.secondary_seeds, options.seeds)
    study = Study(options.output, options.parallel, SELDOM)
    rates = tuned(study, PRIMARY)
    controls = [*CONTROLS, *at_rate(CONTROLS, rates, rates[AUGMENT.name])]
    results = measured(study, list(dict.fromkeys([*PRIMARY, *controls])), rates, range(options.seeds))
    show(f"{options.seeds} seeds, Avg@8", levels(results, rates))
    show("paired by seed, in points, with 95% intervals", differences(results, (GRPO, *controls)))
    show("lessons, by thirds of a run", lessons(results))
    everything: dict[str, object] = {"steps": STEPS, "tuned_lr": rates, "primary": figures(results)}
    if "secondary" in options.parts:
        rates |= tuned(study, SECONDARY)
        others = measured(study, SECONDARY, rates, range(options.secondary_seeds))
        first = {name: found[: options.secondary_seeds] for name, found in results.items()}
        together = {GRPO.name: first[GRPO.name], RESAMPLED.name: first[RESAMPLED.name], **others}
        show(f"{options.secondary_seeds} seeds, Avg@8", levels(together, rates))
        against = (GRPO, RESAMPLED, RESAMPLED_MORE, RESAMPLED_WRONG)
        show("paired by seed, in points, with 95% intervals", differences(together, against))
        show("lessons, by thirds of a run", lessons(others))
        everything |= {"tuned_lr": rates, "secondary": figures(others)}
    if "world" in options.parts:
        rates |= tuned(study, WORLD_ARMS, in_the_world, f"Avg@8 on {WORLD_BENCHMARK} after {WORLD_STEPS} steps")
        families = measured(study, WORLD_ARMS, rates, range(options.secondary_seeds))
        show(f"24 families, {options.secondary_seeds} seeds", world_levels(families, rates))
        held_out = {name: [round(in_the_world(one), 4) for one in found] for name, found in families.items()}
        everything |= {"tuned_lr": rates, "world": held_out}
    finish(everything)
    (options.output / "figures.json").write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
