"""What changes with the step: the learning rate and the weight of the meta-experience objective."""

import math
from typing import Literal

from mel_ray.config.schema import AlgorithmConfig, MelConfig

Schedule = Literal["constant", "linear", "cosine"]


def factor(schedule: Schedule, warmup_steps: int, step: int, steps: int) -> float:
    """In [0, 1] for step 1, 2, ... `steps`: linear warm-up, then constant or decaying to zero.

    It depends on the step alone, so a resumed run continues it.
    """
    warmup = min(1.0, step / warmup_steps) if warmup_steps else 1.0
    progress = min(1.0, (step - 1) / max(1, steps))
    match schedule:
        case "constant":
            decay = 1.0
        case "linear":
            decay = 1.0 - progress
        case "cosine":
            decay = 0.5 * (1.0 + math.cos(math.pi * progress))
    return warmup * decay


def learning_rate(algorithm: AlgorithmConfig, step: int, steps: int) -> float:
    return algorithm.lr * factor(algorithm.lr_schedule, algorithm.warmup_steps, step, steps)


def experience_weight(mel: MelConfig, step: int, steps: int) -> float:
    return mel.weight * factor(mel.weight_schedule, mel.weight_warmup_steps, step, steps)
