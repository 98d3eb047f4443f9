"""Rejection-sampling fine-tuning: NLL on the correct trajectories alone (RFT, arXiv 2308.01825)."""

from collections.abc import Iterable, Sequence

from mel_ray.policy.algorithms.algorithm import Algorithm, Groups, Options, Penalties
from mel_ray.records.ledger import TrajectoryFate
from mel_ray.records.problem import Problem
from mel_ray.records.row import Credit, Row


class CorrectOnly(Algorithm):
    """A_i = 1 for a correct trajectory, else 0; with the `logprob` surrogate that is NLL.

    What is left out does not count in the normalisers: the loss is a mean over what is kept, or over the questions of
    which something is kept.

    Failure case: all wrong gives nothing; all right gives ones: signal without contrast.
    """

    def credit(self, groups: Groups, options: Options, penalties: Penalties) -> list[list[Credit]]:
        return [[float(row.verdict is not None and row.verdict.is_correct) for row in group] for group in groups]

    def leave_out(self, group: Sequence[Row], options: Options) -> list[TrajectoryFate | None]:
        seen: set[str] = set()
        fates: list[TrajectoryFate | None] = []
        for row in group:
            if row.fate is not None:
                fates.append(None)
            elif row.verdict is None or not row.verdict.is_correct:
                fates.append(TrajectoryFate.INCORRECT)
            elif options.rft.deduplicate and row.digest and row.digest in seen:
                fates.append(TrajectoryFate.DUPLICATE)
            else:
                fates.append(None)
                seen.add(row.digest)
        return fates

    def averages_questions(self, options: Options) -> bool:
        return options.rft.weighting == "question"

    def problems(self, options: Options) -> Iterable[Problem]:
        if options.surrogate != "logprob":
            why = "rejection sampling is NLL on correct trajectories, which has no ratio to clip"
            yield Problem("algorithm.surrogate", options.surrogate, why, "use logprob, or algorithm=rft")
        if options.kl.coefficient and options.kl.where != "loss":
            why = "rejection sampling looks at correctness alone, so a KL penalty there would have no effect"
            yield Problem("algorithm.kl.where", options.kl.where, why, "use loss")
        if options.dynamic_sampling.enabled:
            why = "rejection sampling learns from groups that are all correct, which dynamic sampling throws away"
            yield Problem("algorithm.dynamic_sampling.enabled", True, why, "set it to false")
