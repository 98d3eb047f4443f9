"""Measures the gradients of the two objectives apart: their norms and their cosine."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from mel_ray.policy.hooks.hook import Hook, Rank, norms_and_cosine
from mel_ray.policy.statistics import Measure, Same
from mel_ray.records.step import OptimizerStep


class GradientSplit(Hook):
    """Within a step, the second kind's gradient is what it added to the first's; between two steps of one update, each
    has its own."""

    def __init__(self) -> None:
        self._policy: list[Tensor] | None = None

    def is_due(self, step: OptimizerStep) -> bool:
        return step.experience_from is not None and step.balance is None

    def before_microbatch(self, step: OptimizerStep, microbatch: int, rank: Rank) -> None:
        if self.is_due(step) and microbatch == step.experience_from:
            self._policy = rank.gradients()

    def before_optimizer(self, step: OptimizerStep, rank: Rank) -> Mapping[str, Measure]:
        if self.is_due(step):
            policy, experience = self.parts(rank)
            return compared(policy, experience)
        if step.is_compared and step.optimizer == "policy":
            self._policy = rank.gradients()
        elif step.is_compared and self._policy is not None:
            policy, self._policy = self._policy, None
            return compared(policy, rank.gradients())
        return {}

    def parts(self, rank: Rank) -> tuple[list[Tensor], list[Tensor]]:
        """The policy gradient and the lessons', of a step that held both."""
        policy, self._policy = self._policy, None
        if policy is None:
            raise RuntimeError("the step named no microbatch from which on it holds lessons")
        return policy, [both - own for both, own in zip(rank.gradients(), policy, strict=True)]


def compared(policy: Sequence[Tensor], experience: Sequence[Tensor]) -> dict[str, Measure]:
    """Collective."""
    policy_norm, experience_norm, cosine = norms_and_cosine(policy, experience)
    return {"policy_norm": Same(policy_norm), "experience_norm": Same(experience_norm), "gradient_cosine": Same(cosine)}
