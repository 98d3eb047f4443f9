"""Questions that stand in a source more than once, with the same answer or with different ones."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from mel_ray.config.schema import SourceConfig
from mel_ray.records.problem import ConfigError, Problem
from mel_ray.records.question import Question
from mel_ray.rewards.registry import plain_form

SHOWN = 3  # answers and places that a sentence names


@dataclass(frozen=True, slots=True)
class Conflict:
    """A question that stands in a source with different answers."""

    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """The questions to use, each with an id of its own; how many repetitions were left out, of how many rows."""

    kept: tuple[Question, ...]
    repeated: int
    rows: int
    conflicts: tuple[Conflict, ...]


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
        remedy = "mend the data, or use drop or keep"
        raise ConfigError([Problem(f"{path}.conflicts", "error", conflict_words(conflicts), remedy)])
    kept: list[Question] = []
    ids = Counter[str]()
    for row, group in entries:
        if len(group) == 1 or source.conflicts == "keep":
            ids[row.question_id] += 1
            number = ids[row.question_id]
            kept.append(row if number == 1 else replace(row, question_id=f"{row.question_id}-{number}"))
    return Settled(tuple(kept), count - len(entries), count, conflicts)


def asked(question: Question) -> object:
    """Equal for questions that ask the same, options included."""
    return question.context, " ".join(question.text.split()), question.truth.options


def _answered(question: Question) -> object:
    truth = question.truth
    return frozenset(map(_form, (truth.answer, *truth.alternatives)))


_form = lru_cache(maxsize=100_000)(plain_form)


def _conflict(group: Sequence[Question]) -> Conflict:
    return Conflict(group[0].text, tuple(one.truth.answer for one in group))


def conflict_words(conflicts: Sequence[Conflict]) -> str:
    """How many there are, with an example."""
    count, first = len(conflicts), conflicts[0]
    text = " ".join(first.text.split())
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    questions = "1 question stands" if count == 1 else f"{count} questions stand"
    return f"{questions} there with different answers, e.g. '{shown}' with {' and '.join(first.answers[:SHOWN])}"
