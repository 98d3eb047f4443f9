"""One row per sample, from the moment it is sampled until the ledger counts it.

A pool returns rows instead of tokens: the driver sees lengths, verdicts and a reference. Learning adds to a row what it
makes of the sample: reward, credit, fate, weight. The tokens stay in the object store, where the row's `ref` leads.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import blake2b

from mel_ray.records.experience import Draft, DraftState
from mel_ray.records.ledger import DraftFate, Ledger, TrajectoryFate
from mel_ray.records.trajectory import FinishReason, Floats, Group
from mel_ray.records.verdict import Verdict

Ref = Hashable  # a record in the object store; only pools and stores follow it
Credit = float | Floats  # advantage of every trained token, [trained tokens]; a number holds for all of them


class RowKind(StrEnum):
    ATTEMPT = "attempt"  # `ref` leads to a Group, of which this is trajectory `index`
    DRAFT = "draft"  # `ref` leads to a tuple of Drafts, of which this is number `index`
    REPLAY = "replay"  # as ATTEMPT, sampled with a meta-experience in the prompt
    RECALLED = "recalled"  # as DRAFT, a lesson of another question that was replayed on this one; not sampled for it
    RESAMPLED = "resampled"  # as ATTEMPT, sampled again because of how the group's attempts turned out


@dataclass(frozen=True, slots=True)
class Row:
    """Lengths are in tokens. What has no meaning for a kind of row keeps its default."""

    kind: RowKind
    index: int
    question_id: str
    prompt_tokens: int
    tokens: int  # that follow the prompt
    trained_tokens: int  # of these, under the mask
    finish_reason: FinishReason
    versions: tuple[int, int]  # the oldest and the newest weights that sampled it
    digest: str = ""  # equal for equal tokens
    ref: Ref | None = None
    source: str = ""  # of the question

    # what was found out about it
    verdict: Verdict | None = None
    state: DraftState | None = None  # of a draft
    heuristics: tuple[int, int] | None = None  # tokens (first, one past the last) of a draft that state H
    replays: tuple["Row", ...] = ()  # of a draft
    is_proven: bool = False  # Eq. 6
    base_rate: float | None = None  # of a draft: share of its question's own attempts that are correct
    gain: float | None = None  # share of its replays that are correct, minus that
    states_rule: bool | None = None  # whether a draft states the right rule; None: not known
    is_guided: bool = False  # a replay that joined its question's group; `context` is the question without M

    # what learning makes of it
    group: int = -1  # which question of the batch it belongs to
    reward: float | None = None
    credit: Credit = 0.0
    fate: TrajectoryFate | DraftFate | None = None
    pg_weight: float = 0.0  # of each trained token
    nll_weight: float = 0.0
    old_logprobs: Floats | None = None  # of its trained tokens, under the policy before the update
    reference_logprobs: Floats | None = None  # under the initial policy

    # a lesson: what to train, and as an answer to what
    context: Ref | None = None  # a Group whose prompt is the context; None: the prompt it was sampled from
    span: tuple[int, int] | None = None  # tokens that are trained; None: those under the mask
    teaches: tuple[Ref | None, int] | None = None  # the draft in whose place this replay is trained
    lends_credit: bool = False  # of a draft: it changed the credit of its question's attempts
    age: int | None = None  # steps since a recalled lesson was written

    @property
    def sample(self) -> tuple[Ref | None, int]:
        """Which sample this row is about, whatever is trained for it."""
        return self.teaches or (self.ref, self.index)

    @property
    def is_solution(self) -> bool:
        """An attempt at its question, unaided or guided: it is compared with the others of its group."""
        return self.kind in (RowKind.ATTEMPT, RowKind.RESAMPLED) or self.is_guided

    @property
    def is_lesson(self) -> bool:
        return not self.is_solution

    def is_older_than(self, version: int | None) -> bool:
        """Whether weights before `version` sampled any of it."""
        return version is not None and bool(self.tokens) and self.versions[0] < version

    @property
    def length(self) -> int:
        return self.prompt_tokens + self.tokens

    @property
    def has_weight(self) -> bool:
        """Whether any token is trained; one without trained tokens has no use for a weight."""
        return bool(self.trained_tokens and (self.pg_weight or self.nll_weight))


Explored = tuple[Row, ...]  # all that one question brought: attempts, drafts, what joined the attempts


def rows_of_group(group: Group, kind: RowKind = RowKind.ATTEMPT) -> tuple[Row, ...]:
    """One row per trajectory of a group; the pool that stores the group adds the reference."""
    return tuple(
        Row(
            kind=kind,
            index=index,
            question_id=group.prompt.question_id,
            prompt_tokens=len(group.prompt.token_ids),
            tokens=len(one.token_ids),
            trained_tokens=int(one.mask.sum()),
            finish_reason=one.finish_reason,
            versions=(int(one.versions.min()), int(one.versions.max())) if len(one.versions) else (-1, -1),
            digest=blake2b(one.token_ids.tobytes(), digest_size=8).hexdigest(),
            source=group.prompt.question.source,
        )
        for index, one in enumerate(group.trajectories)
    )


def row_of_draft(draft: Draft, index: int) -> Row:
    """The row of a draft; one that was never written has no tokens."""
    written = rows_of_group(draft.written)[0] if draft.written else None
    rejected, question_id = draft.state.fate, draft.question.question_id
    if written is None:
        return Row(RowKind.DRAFT, index, question_id, 0, 0, 0, FinishReason.STOP, (-1, -1), state=draft.state,
                   fate=rejected)  # fmt: skip
    span = draft.heuristics_span or (0, written.tokens)
    return replace(
        written,
        kind=RowKind.DRAFT,
        index=index,
        state=draft.state,
        heuristics=span,
        fate=rejected,
        states_rule=draft.states_rule,
    )


def attempts(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.kind is RowKind.ATTEMPT]


def solutions(rows: Iterable[Row]) -> list[Row]:
    """Attempts, and what joined them."""
    return [row for row in rows if row.is_solution]


def drafts(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.kind is RowKind.DRAFT]


def guides(rows: Iterable[Row]) -> list[Row]:
    """Drafts, and lessons of other questions that were recalled."""
    return [row for row in rows if row.kind in (RowKind.DRAFT, RowKind.RECALLED)]


def correct(rows: Sequence[Row]) -> list[int]:
    """Positions of the rows that were judged correct: Y+."""
    return [position for position, row in enumerate(rows) if row.verdict and row.verdict.is_correct]


def incorrect(rows: Sequence[Row]) -> list[int]:
    """Positions of the rows that were judged and are not correct: Y-."""
    return [position for position, row in enumerate(rows) if row.verdict and row.verdict.is_incorrect]


def is_mixed(rows: Sequence[Row]) -> bool:
    """Whether a question's attempts hold both kinds."""
    own = attempts(rows)
    return bool(correct(own)) and bool(incorrect(own))


def is_all_wrong(rows: Sequence[Row]) -> bool:
    """Whether a question's attempts hold incorrect ones alone, those that could not be judged left out."""
    own = attempts(rows)
    return bool(incorrect(own)) and not correct(own)


def has_signal(explored: Explored) -> bool:
    """Whether its solutions hold both kinds, or a proven lesson changes their credit: else no gradient comes of it."""
    own = solutions(explored)
    return bool(correct(own) and incorrect(own)) or any(row.lends_credit for row in explored)


def success_rate(rows: Sequence[Row]) -> float | None:
    """Share of the judged rows that are correct; None without any."""
    right, wrong = len(correct(rows)), len(incorrect(rows))
    return right / (right + wrong) if right + wrong else None


def count_fates(rows: Iterable[Row]) -> Ledger:
    """The ledger of a step, counted over its rows after the batch was made.

    Raises:
        ValueError: a sample has no fate.
    """
    trajectories: dict[TrajectoryFate, int] = {}
    drafted: dict[DraftFate, int] = {}
    rows = list(rows)
    for row in rows:
        if row.kind is RowKind.RECALLED:
            continue  # it was written for another question
        if isinstance(row.fate, TrajectoryFate):
            trajectories[row.fate] = trajectories.get(row.fate, 0) + 1
        elif isinstance(row.fate, DraftFate):
            drafted[row.fate] = drafted.get(row.fate, 0) + 1
    counted = Ledger(len(solutions(rows)), len(drafts(rows)), trajectories, drafted)
    if not counted.is_balanced:
        raise ValueError(f"the sample ledger does not add up: {counted.as_dict()}")
    return counted
