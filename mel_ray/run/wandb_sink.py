"""Every metric to W&B, on a step axis, with the resolved configuration; offline where there is no key."""

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

from mel_ray.records.incident import Incident
from mel_ray.records.reports import EvalReport, StepReport


def wandb_mode(setting: str) -> str:
    """`auto` is online where a key is known, else offline."""
    if setting != "auto":
        return setting
    has_key = bool(os.environ.get("WANDB_API_KEY")) or "api.wandb.ai" in _netrc()
    return "online" if has_key else "offline"


def _netrc() -> str:
    file = Path.home() / ".netrc"
    return file.read_text(errors="replace") if file.exists() else ""


class WandbSink:
    """A W&B run with a stable id, so that a resumed run continues its curves."""

    def __init__(self, folder: Path, name: str, project: str, setting: str, config: dict[str, Any]) -> None:
        import wandb

        id_file = folder / "wandb_id"
        run_id = id_file.read_text().strip() if id_file.exists() else uuid4().hex[:8]
        id_file.write_text(run_id)
        self._run = wandb.init(
            project=project, name=name, id=run_id, dir=str(folder), config=config, mode=wandb_mode(setting),
            resume="allow", settings=wandb.Settings(console="off", silent=True),
        )  # fmt: skip
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

        self._is_there = True

    def step(self, report: StepReport) -> None:
        self._log({"step": report.step, **report.metrics})

    def evaluation(self, report: EvalReport) -> None:
        scores = {f"eval/{report.benchmark}/{name}": value for name, value in report.scores.items()}
        self._log({"step": report.step, **scores})

    def _log(self, values: dict[str, Any]) -> None:
        if not self._is_there:
            return
        try:
            self._run.log(values)
        except Exception as error:  # its service process has died; what it raises then is not documented
            self._is_there = False
            print(f"W&B takes nothing more ({type(error).__name__}: {error}); metrics.jsonl has everything", flush=True)

    def incident(self, incident: Incident) -> None:
        return None

    def close(self, status: str) -> None:
        if self._is_there:
            self._run.summary["status"] = status
            self._run.finish(exit_code=1 if status == "failed" else 0)
