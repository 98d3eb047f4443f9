"""The learning rate of a step: warm-up, then constant, linear or cosine decay to zero."""

import math

from mel_ray.config.schema import AlgorithmConfig


def learning_rate(algorithm: AlgorithmConfig, step: int, steps: int) -> float:
    """Learning rate of step 1, 2, ... `steps`; it depends on the step alone, so a resumed run continues it."""
    warmup = min(1.0, step / algorithm.warmup_steps) if algorithm.warmup_steps else 1.0
    progress = min(1.0, (step - 1) / max(1, steps))
    match algorithm.lr_schedule:
        case "constant":
            decay = 1.0
        case "linear":
            decay = 1.0 - progress
        case "cosine":
            decay = 0.5 * (1.0 + math.cos(math.pi * progress))
    return algorithm.lr * warmup * decay
