"""From explorations to the sequences of an update: advantages, weights, mini-batches, and everyone's fate."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mel_ray.records.exploration import Exploration, JudgedDraft
from mel_ray.records.ledger import Ledger, TrajectoryFate, ledger
from mel_ray.records.sequence import SequenceKind, SequenceSpec
from mel_ray.records.verdict import Outcome
from mel_ray.rl.advantages import group_standardised
from mel_ray.rl.aggregation import Aggregation, token_weights
from mel_ray.rl.packing import pack

_UNJUDGED = {Outcome.TIMEOUT: TrajectoryFate.VERIFIER_TIMEOUT, Outcome.ERROR: TrajectoryFate.VERIFIER_ERROR}


@dataclass(frozen=True, slots=True)
class AssemblySettings:
    """`max_tokens` is L of the constant-length aggregation; `nll_weight` the weight of J_MEL (paper: 1)."""

    aggregation: Aggregation
    advantage_eps: float
    max_tokens: int
    minibatches: int
    nll_weight: float
    mask_truncated: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """`minibatches` holds one tuple of sequences per optimizer step; a step without signal is left out."""

    minibatches: tuple[tuple[SequenceSpec, ...], ...]
    ledger: Ledger
    skipped_minibatches: int
    advantage_spread: float


def _fates(explored: Exploration, advantages: Sequence[float], mask_truncated: bool) -> list[TrajectoryFate]:
    fates = []
    for verdict, finish, advantage in zip(
        explored.verdict.verdicts, explored.group.facts.finish_reasons, advantages, strict=True
    ):
        if verdict.outcome in _UNJUDGED:
            fates.append(_UNJUDGED[verdict.outcome])
        elif mask_truncated and finish == "length":
            fates.append(TrajectoryFate.TRUNCATED)
        else:
            fates.append(TrajectoryFate.TRAINED if advantage else TrajectoryFate.NO_SIGNAL)
    return fates


def _lesson_spec(lesson: JudgedDraft, lessons: int, weight: float) -> SequenceSpec:
    """NLL averaged over the tokens of M*, then over the lessons (MEL Eq. 7)."""
    facts = lesson.draft.facts
    return SequenceSpec(
        kind=SequenceKind.EXPERIENCE,
        ref=lesson.draft.ref,
        index=lesson.draft.index,
        prompt_tokens=facts.prompt_tokens,
        completion_tokens=facts.completion_tokens,
        nll_weight=weight / (lessons * facts.completion_tokens),
    )


def _minibatch(
    part: Sequence[Exploration], settings: AssemblySettings
) -> tuple[tuple[SequenceSpec, ...], list[TrajectoryFate], list[float]]:
    counted: list[tuple[Exploration, int, float, bool]] = []
    all_fates: list[TrajectoryFate] = []
    spread: list[float] = []
    for explored in part:
        advantages = group_standardised(explored.verdict.rewards, settings.advantage_eps).tolist()
        fates = _fates(explored, advantages, settings.mask_truncated)
        all_fates += fates
        spread += advantages
        counted += [
            (explored, index, advantages[index], fate is TrajectoryFate.TRAINED)
            for index, fate in enumerate(fates)
            if fate in (TrajectoryFate.TRAINED, TrajectoryFate.NO_SIGNAL)
        ]
    lengths = [explored.group.facts.lengths[index] for explored, index, _, _ in counted]
    weights = token_weights(lengths, settings.aggregation, settings.max_tokens)
    specs = [
        SequenceSpec(
            kind=SequenceKind.TRAJECTORY,
            ref=explored.group.ref,
            index=index,
            prompt_tokens=explored.group.facts.prompt_tokens,
            completion_tokens=length,
            advantage=advantage,
            pg_weight=weight,
        )
        for (explored, index, advantage, is_trained), length, weight in zip(counted, lengths, weights, strict=True)
        if is_trained
    ]
    lessons = [lesson for explored in part for lesson in explored.lessons]
    specs += [_lesson_spec(lesson, len(lessons), settings.nll_weight) for lesson in lessons]
    return tuple(specs), all_fates, spread


def assemble(explored: Sequence[Exploration], settings: AssemblySettings) -> Batch:
    """Turn a step's explorations into mini-batches of weighted sequences (MEL Eq. 9-10).

    Trajectories without signal (a group all right or all wrong) are counted in the normalisers and not
    computed: their gradient is zero. Questions are dealt to the mini-batches in turn; each mini-batch
    normalises by its own global counts.
    """
    minibatches, fates, spread, skipped = [], [], [], 0
    for start in range(settings.minibatches):
        specs, part_fates, part_spread = _minibatch(explored[start :: settings.minibatches], settings)
        fates += part_fates
        spread += part_spread
        if specs:
            minibatches.append(specs)
        else:
            skipped += 1
    drafts = [draft.fate for one in explored for draft in one.drafts]
    sampled = sum(len(one.group.facts.lengths) for one in explored)
    return Batch(
        tuple(minibatches),
        ledger(fates, drafts, (sampled, len(drafts))),
        skipped,
        (sum(a * a for a in spread) / max(1, len(spread))) ** 0.5,
    )


Shards = tuple[tuple[tuple[SequenceSpec, ...], ...], ...]


def shard(specs: Sequence[SequenceSpec], ranks: int, token_budget: int) -> Shards:
    """`[rank][microbatch]` tuples of sequences; fillers are copies with zero weights."""
    plan = pack([spec.tokens for spec in specs], ranks, token_budget)
    return tuple(
        tuple(
            tuple(
                replace(specs[i], pg_weight=0.0, nll_weight=0.0) if (rank, k) in plan.fillers else specs[i]
                for i in members
            )
            for k, members in enumerate(row)
        )
        for rank, row in enumerate(plan.microbatches)
    )
