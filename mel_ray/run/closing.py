"""The end of a run: summary.json, the report, and what is printed."""

from pathlib import Path
from typing import Any

from mel_ray.run.atomic import write_json
from mel_ray.run.console import is_score, printable
from mel_ray.run.folder import RunFolder
from mel_ray.run.metrics_file import read_metrics, step_rows, summarise
from mel_ray.run.report import write_report
from mel_ray.run.scrub import scrub_files
from mel_ray.run.store import read_experiences


def experience_text(row: dict[str, Any]) -> str:
    """One meta-experience in full, for a terminal."""

    def block(text: str) -> str:
        return "\n".join(f"    {line}" for line in text.strip().splitlines())

    heuristics = "\n".join(f"    - {rule}" for rule in row["heuristics"]) or "    (none)"
    replays = "\n".join(block(text) for text in row["replays"]) or "    (none)"
    fate = "kept" if row["kept"] else f"rejected: {row['fate']} {row['reason']}".strip()
    lines = [
            f"  step {row['step']}, {fate}",
            f"  question: {row['question']}  (answer {row['answer']})",
            "  incorrect solution:", block(row["incorrect"]),
            "  correct solution:", block(row["correct"]),
            f"  bifurcation point: {row['bifurcation']}",
            f"  critique: {row['critique']}",
            "  heuristics:", heuristics,
            "  replay with the experience in the prompt:", replays,
        ]  # fmt: skip
    return printable("\n".join(lines))


def evaluation_text(evaluations: dict[str, dict[str, dict[str, float]]]) -> str:
    """First and last evaluation of each benchmark side by side."""
    lines = []
    for benchmark, by_step in evaluations.items():
        ordered = sorted(by_step, key=int)
        steps = ordered[:1] if len(ordered) == 1 else [ordered[0], ordered[-1]]
        lines.append(f"  {benchmark:<24}" + "".join(f"{'step ' + step:>10}" for step in steps))
        shown = [name for name in by_step[steps[-1]] if is_score(name)]
        lines += [
            f"  {name:<24}" + "".join(f"{by_step[step].get(name, float('nan')):>10.3f}" for step in steps)
            for name in shown
        ]
    return "\n".join(lines)


def write_closing(folder: RunFolder, status: str, seconds: float) -> str:
    """Write summary.json and report.html; returns the text to print."""
    scrub_files(folder.logs)
    summary = summarise(folder.metrics, status, seconds)
    write_json(folder.summary, summary)
    lines = []
    steps = step_rows(read_metrics(folder.metrics))
    if steps:
        write_report([folder.path], folder.report)
        rewards = [row["reward/mean"] for row in steps]
        count = min(5, len(rewards))
        first, last = sum(rewards[:count]) / count, sum(rewards[-count:]) / count
        lines.append(f"\nreward: {first:.3f} over the first {count} steps, {last:.3f} over the last {count}")
    if summary["unlearned"]:
        lines.append(f"\nnothing was learned: {summary['unlearned']}")
    if summary["evaluations"]:
        lines += ["", evaluation_text(summary["evaluations"])]
    kept = read_experiences(folder.path, kept_only=True)
    if kept and status == "done":
        lines += ["", f"{len(kept)} meta-experiences kept; one of them:", experience_text(kept[len(kept) // 2])]
    lines.append("")
    lines += [f"{name:<9}{path}" for name, path in _results(folder)]
    exported = folder.exported_step
    if exported is not None and exported != summary["steps"]:
        lines.append(f"The policy in it is that after step {exported}.")
    return "\n".join(lines)


def _results(folder: RunFolder) -> list[tuple[str, Path]]:
    results = [("policy", folder.export), ("summary", folder.summary), ("report", folder.report)]
    return [(name, path) for name, path in results if path.exists()]
