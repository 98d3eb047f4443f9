"""From weighted rows to the optimizer steps of a batch, and back to the fate of every row."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from mel_ray.config.schema import MelConfig
from mel_ray.policy.packing import pack
from mel_ray.records.ledger import DraftFate, TrajectoryFate
from mel_ray.records.row import Row, RowKind
from mel_ray.records.step import OptimizerStep, Shards


def shard(rows: Sequence[Row], ranks: int, token_budget: int, is_packed: bool = False) -> Shards:
    """`[rank][microbatch]` tuples of rows; fillers are copies with zero weights."""
    plan = pack([row.length for row in rows], ranks, token_budget, is_packed)
    return tuple(
        tuple(
            tuple(
                replace(rows[i], pg_weight=0.0, nll_weight=0.0) if (rank, k) in plan.fillers else rows[i]
                for i in members
            )
            for k, members in enumerate(microbatches)
        )
        for rank, microbatches in enumerate(plan.microbatches)
    )


def rows_in(shards: Shards) -> list[Row]:
    return [row for rank in shards for microbatch in rank for row in microbatch]


def map_rows(shards: Shards, change: Callable[[Row], Row]) -> Shards:
    """The same shards with every row changed."""
    return tuple(tuple(tuple(map(change, microbatch)) for microbatch in rank) for rank in shards)


def optimizer_steps(
    minibatches: Iterable[Sequence[Row]],
    mel: MelConfig,
    weight: float,
    ranks: int,
    token_budget: int,
    is_split_due: bool = False,
    is_packed: bool = False,
) -> tuple[OptimizerStep, ...]:
    """The optimizer steps of a batch, by how the two objectives are combined; `weight` is that of J_MEL in this
    step.

    - joint: one step per mini-batch on the sum of both (MEL Eq. 9); microbatches mix both kinds
    - balanced (beyond the paper): the same, the lessons' gradient scaled to `mel.balance` times the
      policy gradient's norm; follows the weight's schedule
    - separate (beyond the paper): a step on the attempts, then one on the lessons with optimizer
      state of its own and `weight` times the learning rate, since Adam would undo a weight on the loss

    With `is_split_due` the kinds are kept apart so that their gradients can be measured; the sum is the same.
    """

    def cut(rows: Sequence[Row]) -> Shards:
        return shard(rows, ranks, token_budget, is_packed)

    steps = []
    for rows in minibatches:
        attempts = [row for row in rows if not row.is_lesson]
        lessons = [row for row in rows if row.is_lesson]
        if mel.combination == "separate" and lessons:
            if attempts:
                steps.append(OptimizerStep(cut(attempts), is_compared=is_split_due))
            is_compared = is_split_due and bool(attempts)
            steps.append(OptimizerStep(cut(lessons), None, None, "experience", weight, is_compared))
        elif (mel.combination == "balanced" or is_split_due) and attempts and lessons:
            first, second = cut(attempts), cut(lessons)
            both = tuple(a + b for a, b in zip(first, second, strict=True))
            balance = mel.balance * weight / mel.weight if mel.combination == "balanced" else None
            steps.append(OptimizerStep(both, experience_from=len(first[0]), balance=balance))
        else:
            steps.append(OptimizerStep(cut(rows)))
    return tuple(steps)


def settle_fates(rows: Iterable[Row], steps: Iterable[OptimizerStep], oldest: int | None = None) -> list[Row]:
    """The rows of a step with their final fate.

    For a row that has none yet it is a fact about the batch: trained if a shard holds it with a weight, else skipped.
    What older weights than version `oldest` sampled is counted apart.
    """
    weighty = [row for step in steps for row in rows_in(step.shards) if row.has_weight]
    trained = {row.sample for row in weighty}
    groups = {row.group for row in weighty if row.is_solution}

    def has_guided(draft: Row) -> bool:
        return any(one.sample in trained for one in draft.replays) or (draft.lends_credit and draft.group in groups)

    def settled(row: Row) -> Row:
        if row.fate is not None or row.kind is RowKind.RECALLED:
            return row
        fates = TrajectoryFate if row.is_solution else DraftFate
        if row.sample not in trained:
            return replace(row, fate=DraftFate.GUIDED if row.is_lesson and has_guided(row) else fates.SKIPPED)
        return replace(row, fate=fates.TRAINED_STALE if row.is_older_than(oldest) else fates.TRAINED)

    return [settled(row) for row in rows]
