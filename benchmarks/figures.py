"""Medians, and the closing JSON line of every benchmark."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from typing import Any


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def finish(figures: dict[str, Any]) -> None:
    """The last line: one JSON object."""
    machine = {"cpus": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps(rounded | {"machine": machine}))
