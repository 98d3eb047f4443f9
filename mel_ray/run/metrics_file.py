"""metrics.jsonl: one JSON object per step, appended and flushed as the run goes; and evaluation files."""

import json
from pathlib import Path
from typing import Any

from mel_ray.records.reports import EvalReport, StepReport
from mel_ray.run.folder import RunFolder, write_json


class MetricsFile:
    """Training metrics go to metrics.jsonl, evaluations to eval/ and, as `eval/<set>/...`, to metrics.jsonl too."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._file = folder.metrics.open("a", encoding="utf-8")

    def _append(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def step(self, report: StepReport) -> None:
        self._append({"step": report.step, **_rounded(report.metrics), "ledger": report.ledger.as_dict()})

    def evaluation(self, report: EvalReport) -> None:
        scores = {f"eval/{report.benchmark}/{name}": value for name, value in report.scores.items()}
        self._append({"step": report.step, **_rounded(scores)})
        write_json(
            self._folder.evaluations / f"step-{report.step:06d}-{report.benchmark}.json",
            {
                "benchmark": report.benchmark,
                "step": report.step,
                "questions": report.questions,
                **_rounded(report.scores),
            },
        )

    def close(self, status: str) -> None:
        self._file.close()


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
