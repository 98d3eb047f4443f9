"""Every step metric as a gauge of Ray's metrics system: `ray_mel_reward_mean` and so on, for its dashboard."""

from ray.util.metrics import Gauge

from mel_ray.records.incident import Incident
from mel_ray.records.reports import EvalReport, StepReport


class RayMetricsSink:
    def __init__(self, run: str) -> None:
        self._gauges: dict[str, Gauge] = {}
        self._tags = {"run": run}

    def _set(self, name: str, value: float) -> None:
        gauge = self._gauges.get(name)
        if gauge is None:
            safe = "".join(c if c.isalnum() else "_" for c in name)
            gauge = self._gauges[name] = Gauge(f"mel_{safe}", description=f"mel_ray {name}", tag_keys=("run",))
        gauge.set(value, tags=self._tags)

    def step(self, report: StepReport) -> None:
        for name, value in report.metrics.items():
            self._set(name, value)

    def evaluation(self, report: EvalReport) -> None:
        for name, value in report.scores.items():
            self._set(f"eval/{report.benchmark}/{name}", value)

    def incident(self, incident: Incident) -> None:
        return None

    def close(self, status: str) -> None:
        return None
