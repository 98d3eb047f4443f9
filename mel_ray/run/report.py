"""The report: one self-contained page of figures, sample ledger and meta-experiences about one or more runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from mel_ray.records.problem import counted
from mel_ray.run import figures
from mel_ray.run.atomic import write_atomically
from mel_ray.run.console import is_score
from mel_ray.run.metrics_file import evaluation_table, read_metrics, step_rows
from mel_ray.run.store import read_experiences
from mel_ray.run.unlearned import unlearned_text

CARDS = 60


class RunData:
    """What the report needs of one run."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.rows = read_metrics(path / "metrics.jsonl")
        self.steps = step_rows(self.rows)
        self.evaluations = evaluation_table(self.rows)
        self.experiences = read_experiences(path, kept_only=True)

    def curve(self, metric: str) -> figures.Curve:
        rows = [row for row in self.steps if metric in row]
        return [row["step"] for row in rows], [row[metric] for row in rows]

    def evaluation_curve(self, benchmark: str, score: str) -> figures.Curve:
        points = sorted(self.evaluations.get(benchmark, {}).items())
        return [step for step, _ in points], [scores[score] for _, scores in points]

    def total(self, metric: str) -> float:
        return sum(row.get(metric, 0.0) for row in self.steps)


def _draw(runs: Sequence[RunData]) -> list[str]:
    def over_runs(metric: str) -> dict[str, figures.Curve]:
        return {run.name: run.curve(metric) for run in runs}

    drawn = [figures.curves("Training reward", "mean reward", over_runs("reward/mean"))]
    for benchmark in sorted({name for run in runs for name in run.evaluations}):
        held = {run.name: run.evaluation_curve(benchmark, "pass@1") for run in runs if benchmark in run.evaluations}
        drawn.append(figures.curves(f"{benchmark}: Pass@1", "greedy accuracy", held, smooth=False))
    with_mel = [run for run in runs if run.total("mel/pairs")]
    if with_mel:
        retention = {run.name: run.curve("mel/retention") for run in with_mel}
        drawn.append(figures.curves("Retention ratio", "kept / drafted", retention))
    for run in with_mel:
        stages = [
            ("mixed groups' pairs", run.total("mel/pairs")),
            ("parsed, no leak", run.total("mel/parsed")),
            ("proven by replay", run.total("mel/kept")),
        ]
        drawn.append(figures.funnel(f"From pair to lesson: {run.name}", stages))
    drawn.append(figures.curves("Mixed groups", "share", over_runs("group/mixed_share")))
    drawn.append(figures.curves("Policy entropy", "nats per token", over_runs("policy/entropy"), unit_range=False))
    if any("gradient/cosine" in row for run in runs for row in run.steps):
        title, label = "Policy and meta-experience gradient", "cosine"
        drawn.append(figures.curves(title, label, over_runs("gradient/cosine"), unit_range=False))
    if len(runs) == 1:
        steps = [row["step"] for row in runs[0].steps]
        parts = {name: [row[f"time/{name}"] for row in runs[0].steps] for name in ("explore", "train", "publish")}
        drawn.append(figures.stacked("Where a step's time goes", "seconds", steps, parts))
    return drawn


def mark_bifurcation(solution: str, bifurcation: str) -> dict[str, str]:
    """Split a solution around the line that the bifurcation point names or quotes; unmarked where none does."""
    wanted = bifurcation.strip().rstrip(".").casefold()
    lines = solution.split("\n")
    for number, line in enumerate(lines):
        text = line.strip().casefold()
        if wanted and text and (text.startswith(wanted) or wanted in text or (len(text) > 12 and text in wanted)):
            before = "".join(f"{one}\n" for one in lines[:number])
            return {"before": before, "marked": line, "after": "".join(f"\n{one}" for one in lines[number + 1 :])}
    return {"before": solution, "marked": "", "after": ""}


def _cards(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    rows = [row | {"run": run.name} for run in runs for row in run.experiences]
    chosen = rows if len(rows) <= CARDS else [rows[i * len(rows) // CARDS] for i in range(CARDS)]
    return [row | {"incorrect": mark_bifurcation(row["incorrect"], row["bifurcation"])} for row in chosen]


def _table(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    return [
        {"run": run.name, "benchmark": benchmark, "step": step, "scores": scores}
        for run in runs
        for benchmark, by_step in sorted(run.evaluations.items())
        for step, scores in sorted(by_step.items())
    ]


def _state(name: str) -> str:
    """A state of the ledger in words: being cut off is one thing, being left out for it another."""
    return "left out for being cut off" if name == "truncated" else name.replace("_", " ")


def _ledgers(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    rows = []
    for run in runs:
        for what in ("trajectories", "drafts"):
            counts: dict[str, int] = {}
            for row in run.steps:
                for state, count in row["ledger"][what].items():
                    counts[state] = counts.get(state, 0) + count
            sampled = counts.pop("sampled", 0)
            states = ", ".join(f"{_state(state)} {count}" for state, count in counts.items() if count)
            cut_off = sum(row.get("rollout/truncated_share", 0.0) * row["ledger"][what]["sampled"] for row in run.steps)
            shown = round(cut_off) if what == "trajectories" else ""
            rows.append(
                {"run": run.name, "what": what, "sampled": sampled, "cut_off": shown, "states": states or "none"}
            )
    return rows


def write_report(paths: Sequence[Path], output: Path) -> None:
    """Write one self-contained HTML page about the runs."""
    runs = [RunData(path) for path in paths]
    table = _table(runs)
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    page = environment.get_template("report.html.j2").render(
        names=[run.name for run in runs],
        subtitle=", ".join(f"{run.name}: {counted(len(run.steps), 'step')}" for run in runs),
        table=table,
        scores=sorted({score for row in table for score in row["scores"] if is_score(score)}),
        figures=_draw(runs),
        ledgers=_ledgers(runs),
        unlearned={run.name: text for run in runs if (text := unlearned_text(run.steps))},
        cards=_cards(runs),
        kept=sum(len(run.experiences) for run in runs),
    )
    write_atomically(output, page)
