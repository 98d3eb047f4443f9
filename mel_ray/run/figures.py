"""Figures of a report as SVG text: curves of one or more runs, and the funnel of meta-experiences."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

COLOURS = ("#1f5fbf", "#d9622b", "#2e8b57", "#8b4fb0", "#a8323e")
Curve = tuple[Sequence[float], Sequence[float]]  # steps, values


def _smoothed(values: Sequence[float], window: int = 5) -> list[float]:
    """Mean of the last `window` values."""
    return [sum(values[max(0, i - window + 1) : i + 1]) / len(values[max(0, i - window + 1) : i + 1])
            for i in range(len(values))]  # fmt: skip


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    FigureCanvasSVG(figure)
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _axes(title: str, label: str, width: float = 5.4) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, 3.0))
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_ylabel(label, fontsize=9)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    axes.xaxis.get_major_locator().set_params(integer=True)  # steps
    return figure, axes


def curves(title: str, label: str, runs: Mapping[str, Curve], smooth: bool = True, unit_range: bool = True) -> str:
    """One line per run against the step; the thin line is the value, the thick one its mean over 5 steps."""
    figure, axes = _axes(title, label)
    for colour, (name, (steps, values)) in zip(COLOURS * 3, runs.items(), strict=False):
        if smooth and len(values) > 5:
            axes.plot(steps, values, color=colour, alpha=0.3, linewidth=1)
            axes.plot(steps, _smoothed(values), color=colour, linewidth=2, label=name)
        else:
            axes.plot(steps, values, color=colour, linewidth=2, marker="o", markersize=4, label=name)
    if unit_range:
        axes.set_ylim(0, 1.02)
    axes.set_xlabel("step", fontsize=9)
    if len(runs) > 1:
        axes.legend(fontsize=8, frameon=False)
    return _svg(figure)


def funnel(title: str, stages: Sequence[tuple[str, float]]) -> str:
    """Horizontal bars from the first stage to the last, each with its count and its share of the first."""
    figure, axes = _axes(title, "")
    names = [name for name, _ in stages][::-1]
    counts = [count for _, count in stages][::-1]
    axes.barh(names, counts, color=COLOURS[0], height=0.62)
    top = max(counts, default=0) or 1
    for row, count in enumerate(counts):
        axes.text(count + 0.01 * top, row, f"{count:,.0f}  ({count / top:.0%})", va="center", fontsize=9)
    axes.set_xlim(0, 1.25 * top)
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.spines[["bottom"]].set_visible(False)
    return _svg(figure)


def stacked(title: str, label: str, steps: Sequence[float], parts: Mapping[str, Sequence[float]]) -> str:
    """Areas on top of each other: where a step's seconds go."""
    figure, axes = _axes(title, label)
    axes.stackplot(steps, *parts.values(), labels=list(parts), colors=COLOURS, alpha=0.75)
    axes.set_xlabel("step", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    return _svg(figure)
