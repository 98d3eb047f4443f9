"""summary.json: what a run came to, read back from its own metrics file, so that resumed runs count once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mel_ray.records.ledger import Ledger
from mel_ray.run.metrics_file import read_metrics


def evaluation_table(rows: Sequence[dict[str, Any]]) -> dict[str, dict[int, dict[str, float]]]:
    """benchmark -> step -> score name -> value, from metrics rows."""
    table: dict[str, dict[int, dict[str, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith("eval/"):
                _, benchmark, score = name.split("/", 2)
                table.setdefault(benchmark, {}).setdefault(int(row["step"]), {})[score] = value
    return table


def step_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if "reward/mean" in row]


def summarise(metrics_file: Path, status: str, seconds: float) -> dict[str, Any]:
    """Status, steps, last reward, evaluation table, seconds per phase, and the sample ledger."""
    rows = read_metrics(metrics_file)
    steps = step_rows(rows)
    ledger = sum((Ledger.from_dict(row["ledger"]) for row in steps), Ledger())
    phases = ("time/explore", "time/train", "time/publish", "time/step")
    return {
        "status": status,
        "steps": int(steps[-1]["step"]) if steps else 0,
        "last_reward": steps[-1]["reward/mean"] if steps else None,
        "evaluations": {
            benchmark: {str(step): scores for step, scores in by_step.items()}
            for benchmark, by_step in evaluation_table(rows).items()
        },
        "seconds": {"session": round(seconds, 1)} | {p: round(sum(row[p] for row in steps), 1) for p in phases},
        "ledger": ledger.as_dict(),
        "ledger_balanced": ledger.is_balanced,
    }
