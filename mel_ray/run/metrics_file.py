"""metrics.jsonl, appended as the run goes: one JSON object per step; and summary.json, read back from it."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mel_ray.records.incident import Incident
from mel_ray.records.ledger import Ledger
from mel_ray.records.reports import EvalReport, StepReport
from mel_ray.run.atomic import write_json
from mel_ray.run.folder import RunFolder
from mel_ray.run.scrub import scrub
from mel_ray.run.unlearned import optimizer_steps, unlearned_text


class Lines:
    """Appends lines to a file that a rewind may replace. What a full disk refuses is written with the next line."""

    def __init__(self, file: Path) -> None:
        self._file, self._unwritten = file, list[str]()

    def forget(self, step: int) -> None:
        """What could not be written yet of later steps is written no more."""
        self._unwritten = [line for line in self._unwritten if json.loads(line)["step"] <= step]

    def append(self, line: str) -> None:
        self._unwritten.append(f"{line}\n")
        data = "".join(self._unwritten).encode()
        with suppress(OSError), self._file.open("ab", buffering=0) as stream:
            size = stream.tell()
            if stream.write(data) == len(data):
                self._unwritten.clear()
            else:
                os.truncate(self._file, size)  # half a line


class MetricsFile:
    """Training metrics go to metrics.jsonl, evaluations to eval/ and, as `eval/<set>/...`, to metrics.jsonl too."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._metrics, self._incidents = Lines(folder.metrics), Lines(folder.incidents)

    def _append(self, row: dict[str, Any]) -> None:
        self._metrics.append(json.dumps(row))

    def step(self, report: StepReport) -> None:
        self._append({"step": report.step, **_rounded(report.metrics), "ledger": report.ledger.as_dict()})

    def evaluation(self, report: EvalReport) -> None:
        scores = {f"eval/{report.benchmark}/{name}": value for name, value in report.scores.items()}
        self._append({"step": report.step, **_rounded(scores)})
        file = self._folder.evaluations / f"step-{report.step:06d}-{report.benchmark}.json"
        known = {"benchmark": report.benchmark, "step": report.step, "questions": report.questions}
        with suppress(OSError):  # the disk is full; the scores are among the metrics
            write_json(file, known | _rounded(report.scores))

    def forget(self, step: int) -> None:
        """The run was rewound to this step."""
        self._metrics.forget(step)

    def incident(self, incident: Incident) -> None:
        line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "kind": incident.kind, "who": incident.who}
        self._incidents.append(json.dumps(line | {"text": scrub(incident.text)}))

    def close(self, status: str) -> None:
        return None


def _rounded(values: Any) -> dict[str, float]:
    return {name: float(f"{value:.8g}") for name, value in values.items()}


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """All complete rows; a last line cut off by a crash is ignored."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def evaluation_table(rows: Sequence[dict[str, Any]]) -> dict[str, dict[int, dict[str, float]]]:
    """benchmark -> step -> score name -> value, from metrics rows."""
    table: dict[str, dict[int, dict[str, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith("eval/"):
                _, benchmark, score = name.split("/", 2)
                table.setdefault(benchmark, {}).setdefault(int(row["step"]), {})[score] = value
    return table


def evaluations_done(file: Path) -> dict[tuple[int, str], dict[str, float]]:
    """The scores of every evaluation among the metrics, by step and benchmark."""
    table = evaluation_table(read_metrics(file))
    return {(step, benchmark): scores for benchmark, by_step in table.items() for step, scores in by_step.items()}


def step_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if "reward/mean" in row]


def _mean(steps: Sequence[dict[str, Any]], metric: str) -> float | None:
    values = [row[metric] for row in steps if metric in row]
    return round(sum(values) / len(values), 6) if values else None


def summarise(metrics_file: Path, status: str, seconds: float) -> dict[str, Any]:
    """Status, steps, what was learned at all, last reward, evaluations, seconds per phase, and the sample ledger."""
    rows = read_metrics(metrics_file)
    steps = step_rows(rows)
    ledger = sum((Ledger.from_dict(row["ledger"]) for row in steps), Ledger())
    phases = ("time/explore", "time/train", "time/publish", "time/archive", "time/step")
    return {
        "status": status,
        "steps": int(steps[-1]["step"]) if steps else 0,
        "optimizer_steps": optimizer_steps(steps),
        "unlearned": unlearned_text(steps),
        "truncated_share": _mean(steps, "rollout/truncated_share"),
        "last_reward": steps[-1]["reward/mean"] if steps else None,
        "evaluations": {
            benchmark: {str(step): scores for step, scores in by_step.items()}
            for benchmark, by_step in evaluation_table(rows).items()
        },
        "seconds": {"session": round(seconds, 1)}
        | {p: round(sum(row.get(p, 0.0) for row in steps), 1) for p in phases},
        "ledger": ledger.as_dict(),
        "ledger_balanced": ledger.is_balanced,
    }
