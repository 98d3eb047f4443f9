"""Which trajectories enter an update, with which weight, and the fate of every other one."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from mel_ray.config.schema import AlgorithmConfig
from mel_ray.records.exploration import Exploration
from mel_ray.records.ledger import TrajectoryFate
from mel_ray.records.verdict import Outcome
from mel_ray.policy.aggregation import token_weights
from mel_ray.policy.rows import Credit

_UNJUDGED = {Outcome.TIMEOUT: TrajectoryFate.VERIFIER_TIMEOUT, Outcome.ERROR: TrajectoryFate.VERIFIER_ERROR}


@dataclass(frozen=True, slots=True)
class Selected:
    """Trajectory `index` of question `question` of the (mini-)batch, and the weight of each of its tokens."""

    question: int
    index: int
    token_weight: float


def fates(explored: Exploration, credit: Sequence[Credit], algorithm: AlgorithmConfig) -> list[TrajectoryFate]:
    """The fate of every trajectory of a question.

    One without advantage has no gradient and is not computed, unless a KL or entropy term asks something of it.
    """
    is_regularised = bool(algorithm.entropy_coefficient) or (
        algorithm.kl.coefficient > 0 and algorithm.kl.where == "loss"
    )
    is_rft, seen, result = algorithm.advantage == "correct_only", set(), []
    facts = explored.group.facts
    for index, verdict in enumerate(explored.verdict.verdicts):
        digest = facts.digests[index] if facts.digests else index
        if verdict.outcome in _UNJUDGED:
            fate = _UNJUDGED[verdict.outcome]
        elif algorithm.mask_truncated and facts.finish_reasons[index] == "length":
            fate = TrajectoryFate.TRUNCATED
        elif is_rft and not credit[index].advantage:
            fate = TrajectoryFate.INCORRECT
        elif is_rft and algorithm.rft.deduplicate and digest in seen:
            fate = TrajectoryFate.DUPLICATE
        elif credit[index].advantage or credit[index].kl_scale or is_regularised:
            fate = TrajectoryFate.TRAINED
        else:
            fate = TrajectoryFate.NO_SIGNAL
        if fate is TrajectoryFate.TRAINED:
            seen.add(digest)
        result.append(fate)
    return result


def select(
    explored: Sequence[Exploration],
    fate: Sequence[Sequence[TrajectoryFate]],
    algorithm: AlgorithmConfig,
    max_tokens: int,
) -> list[Selected]:
    """The trained trajectories of a (mini-)batch with their token weights.

    Trajectories without signal count in the normalisers, so that the loss is a mean over what was sampled; those
    that rejection sampling leaves out do not: its loss is a mean over what it keeps, or over the questions it
    keeps something of.
    """
    counted = [
        (question, index, fate_of_one)
        for question, fates_of_question in enumerate(fate)
        for index, fate_of_one in enumerate(fates_of_question)
        if fate_of_one in (TrajectoryFate.TRAINED, TrajectoryFate.NO_SIGNAL)
    ]

    def weigh(part: Sequence[tuple[int, int, TrajectoryFate]]) -> list[float]:
        lengths = [explored[question].group.facts.lengths[index] for question, index, _ in part]
        return token_weights(lengths, algorithm.aggregation, max_tokens)

    if algorithm.advantage == "correct_only" and algorithm.rft.weighting == "question":
        groups = [list(members) for _, members in groupby(counted, key=itemgetter(0))]
        weights = [weight / len(groups) for members in groups for weight in weigh(members)]
    else:
        weights = weigh(counted)
    return [
        Selected(question, index, weight)
        for (question, index, fate_of_one), weight in zip(counted, weights, strict=True)
        if fate_of_one is TrajectoryFate.TRAINED
    ]
