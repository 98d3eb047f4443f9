"""Questions that stand in a source, or in several, more than once: with the same answer or with different ones."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from mel_ray.config.schema import SourceConfig, TrainSourceConfig
from mel_ray.records.problem import ConfigError, Problem, counted
from mel_ray.records.question import Question
from mel_ray.rewards.registry import plain_form

SHOWN = 3  # answers and places that a sentence names
_REMEDY = "mend the data, or use drop or keep"


@dataclass(frozen=True, slots=True)
class Conflict:
    """A question that stands in a source, or in several, with different answers."""

    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """The questions to use, each with an id of its own; how many repetitions were left out, of how many rows."""

    kept: tuple[Question, ...]
    repeated: int
    rows: int
    conflicts: tuple[Conflict, ...]
    left_out: tuple[Question, ...]  # because their question has different answers


def settle(rows: Iterable[Question], source: SourceConfig, path: str) -> Settled:
    """What `deduplicate` and `conflicts` leave.

    Raises:
        ConfigError: a question has different answers, and `conflicts` is error.
    """
    groups: dict[object, dict[object, Question]] = {}  # by question, then by answer
    entries: list[tuple[Question, dict[object, Question]]] = []
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007
        group = groups.setdefault(asked(row), {})
        is_repeat = group.setdefault(_answered(row), row) is not row
        if not (is_repeat and source.deduplicate):
            entries.append((row, group))
    conflicts = tuple(_conflict(list(group.values())) for group in groups.values() if len(group) > 1)
    if conflicts and source.conflicts == "error":
        raise ConfigError([Problem(f"{path}.conflicts", "error", conflict_words(conflicts), _REMEDY)])
    kept: list[Question] = []
    left_out: list[Question] = []
    ids = Counter[str]()
    for row, group in entries:
        if len(group) == 1 or source.conflicts == "keep":
            kept.append(_with_own_id(row, ids))
        else:
            left_out.append(row)
    return Settled(tuple(kept), count - len(entries), count, conflicts, tuple(left_out))


@dataclass(frozen=True, slots=True)
class Settlement:
    """What other sources leave of a source.

    `repeated` counts questions that an earlier source has with the same answer. `conflicts` are questions that another
    source answers differently: `dropped` of them are left out, `disputed` are kept.
    """

    kept: tuple[Question, ...]
    repeated: int
    dropped: int
    disputed: int
    conflicts: tuple[Conflict, ...]


Shared = tuple[TrainSourceConfig, str, Sequence[Question], Sequence[Question]]


def settle_across(sources: Sequence[Shared]) -> list[Settlement]:
    """What is left of sources where they share questions.

    Each is given with its configuration key, its questions, and those that it left out because it answers them
    differently itself.

    A question with one answer stays in the first source that has it. One with several answers is dropped from all
    sources if `conflicts` is drop in any of those that have it; else each answer stays in the first source that has it.

    Raises:
        ConfigError: a question has several answers, and `conflicts` is error in a source that has it.
    """
    groups: dict[object, list[Question]] = defaultdict(list)
    for _, _, questions, left_out in sources:
        for question in (*questions, *left_out):
            groups[asked(question)].append(question)
    shared = {what: group for what, group in groups.items() if len({one.source for one in group}) > 1}
    owners: dict[tuple[object, object], str] = {}
    for what, group in shared.items():
        for one in group:
            owners.setdefault((what, _answered(one)), one.source)
    answers = Counter(what for what, _ in owners)
    conflicts = {what: _conflict_across(group) for what, group in shared.items() if answers[what] > 1}
    dropping = {source.name for source, *_ in sources if source.conflicts == "drop"}
    dropped = {what for what in conflicts if any(one.source in dropping for one in shared[what])}
    found, problems, ids = [], [], Counter[str]()
    for source, key, questions, _ in sources:
        asked_here = [asked(question) for question in questions]
        own = tuple(conflicts[what] for what in dict.fromkeys(asked_here) if what in conflicts)
        if own and source.conflicts == "error":
            why = conflict_words(own, "in several sources")
            problems.append(Problem(f"{key}.conflicts", "error", why, _REMEDY))
        left = [(what, one) for what, one in zip(asked_here, questions, strict=True) if what not in dropped]
        kept = [
            (what, _with_own_id(one, ids))
            for what, one in left
            if what not in shared or owners[what, _answered(one)] == source.name
        ]
        found.append(
            Settlement(
                tuple(one for _, one in kept),
                repeated=len(left) - len(kept),
                dropped=len(questions) - len(left),
                disputed=sum(what in conflicts for what, _ in kept),
                conflicts=own,
            )
        )
    if problems:
        raise ConfigError(problems)
    return found


def _with_own_id(question: Question, ids: Counter[str]) -> Question:
    """The question, with a number after its id if that is among `ids` already."""
    name = question.question_id
    while ids[name]:
        ids[question.question_id] += 1
        name = f"{question.question_id}-{ids[question.question_id]}"
    ids[name] += 1
    return question if name == question.question_id else replace(question, question_id=name)


def asked(question: Question) -> object:
    """Equal for questions that ask the same, options included."""
    return question.context, " ".join(question.text.split()), question.truth.options


def _answered(question: Question) -> object:
    truth = question.truth
    return frozenset(map(_form, (truth.answer, *truth.alternatives)))


_form = lru_cache(maxsize=100_000)(plain_form)


def _conflict(group: Sequence[Question]) -> Conflict:
    return Conflict(group[0].text, tuple(one.truth.answer for one in group))


def _conflict_across(group: Sequence[Question]) -> Conflict:
    return Conflict(group[0].text, tuple(dict.fromkeys(f"{one.truth.answer} in {one.source}" for one in group)))


def conflict_words(conflicts: Sequence[Conflict], where: str = "there") -> str:
    """How many there are, with an example."""
    count, first = len(conflicts), conflicts[0]
    text = " ".join(first.text.split())
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    stand = f"{counted(count, 'question')} {'stands' if count == 1 else 'stand'} {where}"
    return f"{stand} with different answers, e.g. '{shown}' with {' and '.join(first.answers[:SHOWN])}"
