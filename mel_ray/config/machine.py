"""What a run may use."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """What a run may use: of this machine, or of the Ray cluster it is submitted to (`is_cluster`)."""

    cpus: float
    gpus: float
    is_cluster: bool = False


def this_machine() -> Machine:
    cpus = len(os.sched_getaffinity(0))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return Machine(cpus, present if visible is None else min(present, len([v for v in visible.split(",") if v])))
