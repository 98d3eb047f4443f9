"""What learning makes of a step's rows: reward and credit, then who takes part, then the weight of every token.

`score`, `decide` and `weigh` are pure and are called in this order (MEL Eqs. 9-10); rows are flat, `group` names the
question. What dynamic sampling threw away has its fate already, belongs to no group, and passes through untouched.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mel_ray.config.schema import AlgorithmConfig, Config, MelConfig
from mel_ray.policy.algorithms.algorithm import Penalties
from mel_ray.policy.registry import AGGREGATIONS, ALGORITHMS
from mel_ray.records.ledger import DraftFate, TrajectoryFate
from mel_ray.records.row import Explored, Ref, Row, RowKind
from mel_ray.records.step import KlEstimator
from mel_ray.records.trajectory import FinishReason, Floats
from mel_ray.records.verdict import Outcome


def kl_penalty_to_go(logprobs: Floats, reference: Floats, estimator: KlEstimator, coefficient: float) -> Floats:
    """coefficient * K_t, K_t being the sum of the KL estimates at tokens s >= t; all arrays are [trained tokens].

    The estimators are those of `policy/loss.py`. The first entry is the penalty of the whole trajectory.
    """
    difference = logprobs - reference
    match estimator:
        case "k1":
            kl = difference
        case "k2":
            kl = 0.5 * difference**2
        case "k3":
            kl = np.exp(-difference) - 1.0 + difference
    return (coefficient * np.cumsum(kl[::-1], dtype=np.float32)[::-1]).astype(np.float32)


Fates = dict[tuple[Ref | None, int], TrajectoryFate | DraftFate | None]
_UNJUDGED = {Outcome.TIMEOUT: TrajectoryFate.VERIFIER_TIMEOUT, Outcome.ERROR: TrajectoryFate.VERIFIER_ERROR}


@dataclass(frozen=True, slots=True)
class Lessons:
    """What is internalised in a step: lessons of this step's questions with the weight of J_MEL (Eq. 9), and past ones
    drawn from memory with theirs."""

    fresh: Sequence[Row] = ()
    weight: float = 0.0
    past: Sequence[Row] = ()
    past_weight: float = 0.0


def rows_of(explored: Sequence[Explored]) -> list[Row]:
    """All rows of a step, flat, each with the number of its question in the batch."""
    rows, group = [], 0
    for one in explored:
        is_kept = not any(row.fate is TrajectoryFate.FILTERED for row in one)
        rows += [replace(row, group=group if is_kept else -1) for row in one]
        group += is_kept
    return rows


def by_group(rows: Iterable[Row]) -> list[list[Row]]:
    """The batch's attempts by question, and the replays that joined them."""
    groups: dict[int, list[Row]] = {}
    for row in rows:
        if row.is_solution and row.group >= 0:
            groups.setdefault(row.group, []).append(row)
    return list(groups.values())


def overlong_penalty(length: int, max_tokens: int, zone: float) -> float:
    """0 up to `max_tokens - zone`, then falling linearly to -1 at `max_tokens`, -1 beyond (DAPO Eq. 13, arXiv
    2503.14476).

    All in tokens. Failure case: a zone of 0 is a step: -1 only beyond `max_tokens`.
    """
    if length <= max_tokens - zone:
        return 0.0
    return -1.0 if length > max_tokens else (max_tokens - zone - length) / zone


def shaped_reward(row: Row, algorithm: AlgorithmConfig, max_tokens: int) -> float | None:
    """The verdict's reward, mapped linearly so that 0 becomes `incorrect_reward` and 1 stays 1, minus DAPO's penalty on
    overlong answers; None stays None."""
    reward = row.verdict.reward if row.verdict else None
    if reward is None:
        return None
    zone, low = algorithm.overlong_zone, algorithm.incorrect_reward
    penalty = overlong_penalty(row.tokens, max_tokens, zone * max_tokens) * algorithm.overlong_penalty if zone else 0.0
    return low + (1.0 - low) * reward + penalty


def score(
    rows: Sequence[Row], algorithm: AlgorithmConfig, max_tokens: int, penalties: Penalties | None = None
) -> list[Row]:
    """Reward and credit of every attempt."""
    rewarded = [
        replace(row, reward=shaped_reward(row, algorithm, max_tokens)) if row.is_solution else row for row in rows
    ]
    groups = by_group(rewarded)
    found = ALGORITHMS[algorithm.advantage].credit(groups, algorithm, penalties or {})
    credit = {
        row.sample: value
        for group, values in zip(groups, found, strict=True)
        for row, value in zip(group, values, strict=True)
    }
    return [replace(row, credit=credit[row.sample]) if row.sample in credit else row for row in rewarded]


def advantage_spread(rows: Sequence[Row]) -> float:
    """Root mean square of the attempts' advantages."""
    advantages = [
        float(np.mean(row.credit)) if np.size(row.credit) else 0.0 for group in by_group(rows) for row in group
    ]
    return (sum(a * a for a in advantages) / max(1, len(advantages))) ** 0.5


def decide(rows: Sequence[Row], algorithm: AlgorithmConfig, oldest: int | None = None) -> list[Row]:
    """The fate of every sample that takes no part in the update; the others keep None.

    An attempt without advantage has no gradient and is not computed, unless a KL or entropy term asks something of it.
    What older weights than version `oldest` sampled is left out; None leaves nothing out.
    """
    is_regularised = bool(algorithm.entropy_coefficient) or (
        algorithm.kl.coefficient > 0 and algorithm.kl.where == "loss"
    )
    fates: Fates = {}
    for group in by_group(rows):
        unusable = [_unusable(row, algorithm, oldest) for row in group]
        seen = [replace(row, fate=fate) if fate else row for row, fate in zip(group, unusable, strict=True)]
        left_out = ALGORITHMS[algorithm.advantage].leave_out(seen, algorithm)
        for row, own in zip(seen, left_out, strict=True):
            has_signal = isinstance(row.credit, np.ndarray) or bool(row.credit) or is_regularised
            is_silent = not has_signal or not row.trained_tokens
            fates[row.sample] = row.fate or own or (TrajectoryFate.NO_SIGNAL if is_silent else None)
    return [_decided(row, fates, oldest) for row in rows]


def _decided(row: Row, fates: Fates, oldest: int | None) -> Row:
    if row.is_solution:
        fate = fates[row.sample] if row.group >= 0 else row.fate
        return row if fate is row.fate else replace(row, fate=fate)
    is_left_out = row.kind is RowKind.DRAFT and row.fate is None and row.is_older_than(oldest)
    return replace(row, fate=DraftFate.STALE) if is_left_out else row


def _unusable(row: Row, algorithm: AlgorithmConfig, oldest: int | None) -> TrajectoryFate | None:
    if row.is_older_than(oldest):
        return TrajectoryFate.STALE
    if row.verdict and row.verdict.outcome in _UNJUDGED:
        return _UNJUDGED[row.verdict.outcome]
    return TrajectoryFate.TRUNCATED if algorithm.mask_truncated and row.finish_reason is FinishReason.LENGTH else None


def weigh(rows: Sequence[Row], lessons: Lessons, config: Config) -> list[tuple[Row, ...]]:
    """The mini-batches of a step: the rows that are trained, with the weight of each of their tokens.

    Questions, and past lessons, are dealt to the mini-batches in turn; each mini-batch normalises by its own global
    counts. One without rows, or with lessons that have no policy gradient to be balanced against, is left out.
    """
    parts, minibatches = config.algorithm.minibatches, []
    is_by_gain = config.mel.keep == "gain"
    for start in range(parts):
        own = [row for row in rows if row.group >= 0 and row.group % parts == start]
        trained = [
            *weigh_attempts(own, config.algorithm, config.rollout.max_tokens),
            *weigh_lessons(
                [lesson for lesson in lessons.fresh if lesson.group % parts == start],
                lessons.weight,
                config.mel.normalisation,
                is_by_gain,
            ),
            *weigh_lessons(lessons.past[start::parts], lessons.past_weight, "experience", is_by_gain),
        ]
        if trained and not _lacks_a_measure(trained, config.mel):
            minibatches.append(tuple(trained))
    return minibatches


def _lacks_a_measure(rows: Sequence[Row], mel: MelConfig) -> bool:
    """Whether lessons are to be balanced against a policy gradient that is not there."""
    return mel.combination == "balanced" and all(row.is_lesson for row in rows)


def weigh_attempts(rows: Sequence[Row], algorithm: AlgorithmConfig, max_tokens: int) -> list[Row]:
    """The attempts of a mini-batch that are trained, with their token weights.

    Attempts without signal count in the normalisers, so that the loss is a mean over what was sampled.
    """
    aggregate = AGGREGATIONS[algorithm.aggregation]
    groups = [[row for row in group if row.fate in (None, TrajectoryFate.NO_SIGNAL)] for group in by_group(rows)]
    groups = [group for group in groups if group]
    if not ALGORITHMS[algorithm.advantage].averages_questions(algorithm):
        groups = [[row for group in groups for row in group]]
    weighed = []
    for group in groups:
        weights = aggregate([row.trained_tokens for row in group], max_tokens)
        weighed += [
            replace(row, pg_weight=w / len(groups)) for row, w in zip(group, weights, strict=True) if row.fate is None
        ]
    return weighed


def weigh_lessons(lessons: Sequence[Row], weight: float, normalisation: str, is_by_gain: bool = False) -> list[Row]:
    """NLL averaged over the trained tokens of a lesson, then over the lessons (MEL Eq. 7), or over the lessons of each
    question and then over the questions (`normalisation="question"`).

    By gain, each counts by how much it helped: a step whose lessons helped little learns little from them.
    """
    sizes: dict[str, int] = {}
    for lesson in lessons:
        sizes[lesson.question_id] = sizes.get(lesson.question_id, 0) + 1
    weighed = []
    for lesson in lessons:
        share = 1 / len(lessons) if normalisation == "experience" else 1 / (len(sizes) * sizes[lesson.question_id])
        factor = lesson.gain if is_by_gain and lesson.gain is not None else 1.0
        weighed.append(replace(lesson, nll_weight=weight * factor * share / max(1, lesson.trained_tokens)))
    return weighed
