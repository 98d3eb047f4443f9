"""Leaves out an update whose gradient is far larger than any that a healthy run has (a spike in the loss)."""

from collections.abc import Mapping

import torch

from mel_ray.policy.hooks.hook import Hook, Rank
from mel_ray.policy.statistics import Measure
from mel_ray.records.step import OptimizerStep


class Outliers(Hook):
    """DeepSpeed skips a step whose gradient is not finite, on all ranks alike; one that is too large is made so."""

    def __init__(self, limit: float | None) -> None:
        """`limit`: largest norm of a gradient, before clipping; None: there is none."""
        self._limit = limit

    def before_optimizer(self, step: OptimizerStep, rank: Rank) -> Mapping[str, Measure]:
        if self._limit is not None and rank.gradient_norm() > self._limit:
            rank.set_gradients([torch.full_like(gradient, torch.nan) for gradient in rank.gradients()])
        return {}
