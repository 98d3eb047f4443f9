"""From explorations and lessons to optimizer steps: credit, weights, mini-batches, and everyone's fate."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mel_ray.config.schema import Config, MelConfig
from mel_ray.records.exploration import Exploration
from mel_ray.records.ledger import Ledger, TrajectoryFate, ledger
from mel_ray.records.lesson import Lesson
from mel_ray.records.sequence import SequenceKind, SequenceSpec
from mel_ray.records.update import OptimizerStep, Shards
from mel_ray.policy.rows import Credit, Kl, assign_credit
from mel_ray.policy.packing import pack
from mel_ray.policy.selection import fates, select

Specs = tuple[SequenceSpec, ...]


@dataclass(frozen=True, slots=True)
class Lessons:
    """What is internalised in this step: `fresh` lessons per question, aligned with the explorations, with the
    weight of J_MEL (Eq. 9), and `past` ones drawn from memory with theirs."""

    fresh: Sequence[Sequence[Lesson]] = ()
    weight: float = 0.0
    past: Sequence[Lesson] = ()
    past_weight: float = 0.0


@dataclass(frozen=True, slots=True)
class Batch:
    """`minibatches`: sequences per mini-batch; one without signal is left out and counted in `skipped_minibatches`."""

    minibatches: tuple[Specs, ...]
    ledger: Ledger
    skipped_minibatches: int
    advantage_spread: float


def lesson_specs(lessons: Sequence[Lesson], weight: float, normalisation: str) -> list[SequenceSpec]:
    """NLL averaged over the trained tokens of a lesson, then over the lessons (MEL Eq. 7), or over the lessons of each
    question and then over the questions (`normalisation="question"`)."""
    sizes: dict[str, int] = {}
    for lesson in lessons:
        sizes[lesson.question_id] = sizes.get(lesson.question_id, 0) + 1
    specs = []
    for lesson in lessons:
        share = 1 / len(lessons) if normalisation == "experience" else 1 / (len(sizes) * sizes[lesson.question_id])
        specs.append(
            SequenceSpec(
                kind=lesson.kind,
                ref=lesson.ref,
                index=lesson.index,
                prompt_tokens=lesson.context_tokens,
                completion_tokens=lesson.tokens,
                nll_weight=weight * share / lesson.trained_tokens,
                context_ref=lesson.context_ref,
                span=lesson.span,
            )
        )
    return specs


def _trajectory_specs(
    part: Sequence[Exploration],
    credit: Sequence[Sequence[Credit]],
    fate: Sequence[Sequence[TrajectoryFate]],
    config: Config,
) -> list[SequenceSpec]:
    return [
        SequenceSpec(
            kind=SequenceKind.TRAJECTORY,
            ref=part[chosen.question].group.ref,
            index=chosen.index,
            prompt_tokens=part[chosen.question].group.facts.prompt_tokens,
            completion_tokens=part[chosen.question].group.facts.lengths[chosen.index],
            advantage=credit[chosen.question][chosen.index].advantage,
            kl_scale=credit[chosen.question][chosen.index].kl_scale,
            pg_weight=chosen.token_weight,
        )
        for chosen in select(part, fate, config.algorithm, config.rollout.max_tokens)
    ]


def assemble(
    explored: Sequence[Exploration],
    lessons: Lessons,
    config: Config,
    kl: Kl | None = None,
    filtered: Sequence[Exploration] = (),
) -> Batch:
    """Turn a step's explorations into mini-batches of weighted sequences (MEL Eq. 9-10).

    Questions, and past lessons, are dealt to the mini-batches in turn; each mini-batch normalises by its own global
    counts. `filtered` are questions that dynamic sampling threw away: they appear in the ledger alone.
    """
    algorithm, parts = config.algorithm, config.algorithm.minibatches
    credit = assign_credit(explored, algorithm, config.rollout.max_tokens, kl)
    fate = [fates(one, its_credit, algorithm) for one, its_credit in zip(explored, credit, strict=True)]
    fresh = lessons.fresh or [()] * len(explored)
    minibatches: list[Specs] = []
    for start in range(parts):
        own = [lesson for of_one in fresh[start::parts] for lesson in of_one]
        specs = _trajectory_specs(explored[start::parts], credit[start::parts], fate[start::parts], config)
        specs += lesson_specs(own, lessons.weight, config.mel.normalisation)
        specs += lesson_specs(lessons.past[start::parts], lessons.past_weight, "experience")
        minibatches.append(() if _lacks_a_measure(specs, config.mel) else tuple(specs))
    kept = tuple(m for m in minibatches if m)
    advantages = [one.advantage for group in credit for one in group]
    spread = (sum(a * a for a in advantages) / max(1, len(advantages))) ** 0.5
    return Batch(kept, _ledger([*explored, *filtered], fate), parts - len(kept), spread)


def _lacks_a_measure(specs: Sequence[SequenceSpec], mel: MelConfig) -> bool:
    """Whether meta-experiences are to be balanced against a policy gradient that is not there."""
    return mel.combination == "balanced" and all(spec.is_experience for spec in specs)


def _ledger(everything: Sequence[Exploration], fate: Sequence[Sequence[TrajectoryFate]]) -> Ledger:
    trajectories = [one for group in fate for one in group]
    thrown_away = everything[len(fate) :]
    trajectories += [TrajectoryFate.FILTERED for one in thrown_away for _ in one.group.facts.lengths]
    drafts = [draft.fate for one in everything for draft in one.drafts]
    sampled = sum(len(one.group.facts.lengths) for one in everything)
    return ledger(trajectories, drafts, (sampled, len(drafts)))


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


def optimizer_steps(
    minibatches: Iterable[Specs],
    mel: MelConfig,
    weight: float,
    ranks: int,
    token_budget: int,
    is_split_due: bool = False,
) -> tuple[OptimizerStep, ...]:
    """The optimizer steps of a batch, by how the two objectives are combined; `weight` is that of J_MEL in this
    step.

    - joint: one step per mini-batch on the sum of both (MEL Eq. 9); microbatches mix both kinds
    - balanced (beyond the paper): the same, the meta-experience gradient scaled to `mel.balance` times the
      policy gradient's norm; follows the weight's schedule
    - separate (beyond the paper): a step on the trajectories, then one on the meta-experiences with optimizer
      state of its own and `weight` times the learning rate, since Adam would undo a weight on the loss

    With `is_split_due` the kinds are kept apart so that their gradients can be measured; the sum is the same.
    """

    def cut(specs: Sequence[SequenceSpec]) -> Shards:
        return shard(specs, ranks, token_budget)

    steps = []
    for specs in minibatches:
        trajectories = [spec for spec in specs if not spec.is_experience]
        experiences = [spec for spec in specs if spec.is_experience]
        if mel.combination == "separate" and experiences:
            if trajectories:
                steps.append(OptimizerStep(cut(trajectories), is_compared=is_split_due))
            is_compared = is_split_due and bool(trajectories)
            steps.append(OptimizerStep(cut(experiences), None, None, "experience", weight, is_compared))
        elif (mel.combination == "balanced" or is_split_due) and trajectories and experiences:
            first, second = cut(trajectories), cut(experiences)
            both = tuple(a + b for a, b in zip(first, second, strict=True))
            balance = mel.balance * weight / mel.weight if mel.combination == "balanced" else None
            steps.append(OptimizerStep(both, experience_from=len(first[0]), balance=balance))
        else:
            steps.append(OptimizerStep(cut(specs)))
    return tuple(steps)
