"""`mel.combination=balanced`: the lessons' gradient is scaled to a fraction of the policy gradient's norm."""

from collections.abc import Mapping

from mel_ray.policy.hooks.gradient_split import GradientSplit, compared
from mel_ray.policy.hooks.hook import Rank
from mel_ray.policy.statistics import Measure
from mel_ray.records.step import OptimizerStep


class Balanced(GradientSplit):
    """Failure case: a tiny gradient of lessons is blown up to its share; a zero one stays zero."""

    def is_due(self, step: OptimizerStep) -> bool:
        return step.balance is not None

    def before_optimizer(self, step: OptimizerStep, rank: Rank) -> Mapping[str, Measure]:
        if step.balance is None:
            return {}
        policy, experience = self.parts(rank)
        measured = compared(policy, experience)
        if norm := measured["experience_norm"].value:
            scale = step.balance * measured["policy_norm"].value / norm
            rank.set_gradients([own + scale * other for own, other in zip(policy, experience, strict=True)])
        return measured
