"""Live progress in the terminal: a bar where there is one, plain lines where there is not."""

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from mel_ray.records.incident import Incident
from mel_ray.records.problem import counted
from mel_ray.records.reports import EvalReport, StepReport
from mel_ray.run.bottleneck import bottleneck, phase_means
from mel_ray.run.scrub import scrub


def step_line(metrics: Any) -> str:
    """The figures of a step worth watching, in one line."""
    tokens = metrics["tokens/rollout"] + metrics["tokens/experience"]
    cut_off = metrics.get("rollout/truncated_share", 0.0)
    figures = [
        f"reward {metrics['reward/mean']:.2f}",
        f"mixed {metrics['group/mixed_share']:.2f}",
        f"kept {metrics['mel/kept']:.0f}/{metrics['mel/pairs']:.0f}",
        *([f"cut off {cut_off:.2f}"] if cut_off else []),
        *([f"{tokens / explore:,.0f} tok/s"] if (explore := metrics["time/explore"]) > 0.01 else []),
        f"{metrics['time/step']:.1f} s (explore {metrics['time/explore']:.1f}, train {metrics['time/train']:.1f}, "
        f"publish {metrics['time/publish']:.2f}{_overlap(metrics)})",
    ]
    return "  ".join(figures)


def _overlap(metrics: Any) -> str:
    """What the halves waited for each other, and how old the rows were, where that can be."""
    if "staleness/mean" not in metrics:
        return ""
    return f"; waited {metrics['time/wait']:.1f}, staleness {metrics['staleness/mean']:.1f}"


def explained(rows: Sequence[Any], capacity: int, is_partial: bool) -> str:
    """Which half the other one waits for; empty before there is a step to tell it by."""
    means = phase_means(rows)
    return bottleneck(means, capacity, is_partial) if means else ""


def is_score(name: str) -> bool:
    """Whether a score is a Pass@k or Avg@k itself, not its error or a side figure."""
    return "@" in name and not name.endswith("_se")


def evaluation_line(report: EvalReport) -> str:
    scores = "  ".join(f"{name} {value:.3f}" for name, value in report.scores.items() if is_score(name))
    return f"{report.benchmark} after step {report.step} ({counted(report.questions, 'question')}): {scores}"


def printable(text: str) -> str:
    """For a terminal: what would steer it, or turn the direction of a text, is shown as an escape."""
    return "".join(c if c == "\n" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


LONGEST_INCIDENT = 400  # characters


def incident_line(incident: Incident) -> str:
    """The first line of its text; incidents.jsonl has all of it."""
    text = printable(scrub(incident.text.partition("\n")[0])).removeprefix(f"{incident.who}, ")
    return f"{incident.kind}: {incident.who}: {text[:LONGEST_INCIDENT]}{' ...' * (len(text) > LONGEST_INCIDENT)}"


EXPLAINED_AFTER = 5  # steps


class PlainConsole:
    """One quiet line per step, and once a line that says which half the other waits for."""

    def __init__(self, steps: int, capacity: int, is_partial: bool = False) -> None:
        self._steps, self._capacity, self._is_partial = steps, capacity, is_partial
        self._rows: list[Any] = []

    def step(self, report: StepReport) -> None:
        print(f"step {report.step}/{self._steps}  {step_line(report.metrics)}", flush=True)
        self._rows = [*self._rows[-EXPLAINED_AFTER:], report.metrics]
        if len(self._rows) == EXPLAINED_AFTER:
            print(explained(self._rows, self._capacity, self._is_partial), flush=True)

    def evaluation(self, report: EvalReport) -> None:
        print(evaluation_line(report), flush=True)

    def incident(self, incident: Incident) -> None:
        print(incident_line(incident), flush=True)

    def close(self, status: str) -> None:
        return None


class BarConsole:
    """A bar, and under it the last step's figures."""

    def __init__(self, steps: int, done: int, capacity: int, is_partial: bool = False) -> None:
        self._capacity, self._is_partial, self._rows = capacity, is_partial, list[Any]()
        self._progress = Progress(TextColumn("step"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
        self._task = self._progress.add_task("steps", total=steps, completed=done)
        self._live = Live(self._progress, refresh_per_second=4)
        self._live.start()

    def step(self, report: StepReport) -> None:
        self._progress.update(self._task, completed=report.step)
        self._rows = [*self._rows[-20:], report.metrics]
        lines = [
            Text(step_line(report.metrics)),
            Text(explained(self._rows, self._capacity, self._is_partial), style="dim"),
        ]
        self._live.update(Group(self._progress, *lines))

    def evaluation(self, report: EvalReport) -> None:
        self._live.console.print(evaluation_line(report), highlight=False)

    def incident(self, incident: Incident) -> None:
        self._live.console.print(incident_line(incident), highlight=False, markup=False)

    def close(self, status: str) -> None:
        self._live.stop()


def make_console(
    kind: str, steps: int, done: int, capacity: int, is_partial: bool = False
) -> PlainConsole | BarConsole:
    is_terminal = kind == "auto" and sys.stdout.isatty()
    if is_terminal:
        return BarConsole(steps, done, capacity, is_partial)
    return PlainConsole(steps, capacity, is_partial)
