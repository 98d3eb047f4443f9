"""Loading questions: the embedded world, or files whose columns hold questions and answers."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import yaml
from jinja2 import TemplateError

from mel_ray.config.schema import SourceConfig
from mel_ray.data.columns import (
    MissingError,
    WrongKindError,
    allows,
    as_text,
    columns_of,
    fill,
    from_json,
    is_blank,
    is_template,
    pick,
)
from mel_ray.data.files import find_files
from mel_ray.data.formats import Record, read_records
from mel_ray.data.golds import truth_of
from mel_ray.data.messages import are_messages, split_messages
from mel_ray.data.repetitions import SHOWN, Conflict, conflict_words, settle
from mel_ray.records.experience import RULE_COLUMN
from mel_ray.records.problem import ConfigError, Problem, counted
from mel_ray.records.question import Message, Question, Truth


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row without a question or an answer: where it stands, what it lacks, and what it has instead."""

    place: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The questions of a source, and what became of its rows; `notes` are sentences about what was left out."""

    questions: tuple[Question, ...]
    rows: int
    repeated: int = 0
    dropped: tuple[Dropped, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    left_out: tuple[Question, ...] = ()
    notes: tuple[str, ...] = ()


def load(source: SourceConfig, path: str = "data.train") -> Loaded:
    """All questions of a source, in file order; `path` names the source's configuration key in errors.

    Raises:
        ConfigError: nothing to read, a wrong schema, or no questions; one sentence each.
    """
    dropped: list[Dropped] = []
    excluded = Counter[str]()
    if source.kind == "table":
        rows: Iterable[Question] = _table_questions(source, path, dropped, excluded)
    else:
        rows = _world_questions(source)
    settled = settle(rows, source, path)
    kept = settled.kept[source.skip :][: source.limit]
    if settled.kept and not kept:
        why = f"there are only {counted(len(settled.kept), 'question')}"
        raise ConfigError([Problem(f"{path}.skip", source.skip, why, "lower it")])
    if not settled.kept:
        raise ConfigError([_nothing(source, path, dropped, excluded.total(), settled.conflicts)])
    notes = (*_drop_notes(dropped), *_conflict_notes(settled.conflicts, source, path))
    return Loaded(
        kept,
        settled.rows + len(dropped),
        settled.repeated,
        tuple(dropped),
        settled.conflicts,
        settled.left_out,
        notes,
    )


def _world_questions(source: SourceConfig) -> Iterator[Question]:
    """Problems of an embedded world; their columns say which family they are of, and its rule."""
    from mel_ray.data.world.problems import FAMILIES, Split, questions
    from mel_ray.data.world.rules import rules

    split: Split = "train" if source.split == "train" else "heldout"
    families = FAMILIES
    if source.kind == "rules":
        asked, unasked = rules(source.rules, source.bands)
        families = unasked if source.split == "unasked" else asked
        families = tuple(one for one in families if source.band in (None, one.skill))
    for one in questions(split, source.count, source.seed, source.phrasings, families) if families else ():
        known = {
            "family": one.family.name,
            RULE_COLUMN: one.family.rule(True),
            "band": one.family.skill,
        }
        yield Question(one.question, Truth(one.answer), columns=known, solution=one.solution)


def _table_questions(
    source: SourceConfig, path: str, dropped: list[Dropped], excluded: Counter[str]
) -> Iterator[Question]:
    """The questions of the rows. Rows without one are added to `dropped`; those that `where` leaves out are counted in
    `excluded`, by file."""
    for file in find_files(source, path):
        try:
            for record in read_records(file, _wanted(source, path)):
                try:
                    if allows(record.columns, source.where):
                        yield _question(record, source)
                    else:
                        excluded[file.name] += 1
                except MissingError as missing:
                    dropped.append(Dropped(record.place, missing.reason, missing.detail))
                except WrongKindError as error:
                    remedy = f"mend the row, or set {path}.question and {path}.answer to other columns"
                    raise ConfigError([Problem(path, None, f"{record.place}: {error}", remedy)]) from error
        except (OSError, ValueError, re.error) as error:
            why = f"cannot read {file}: {str(error).splitlines()[0]}"
            raise ConfigError([Problem(f"{path}.path", source.path, why, "mend the file or give another")]) from error


def _wanted(source: SourceConfig, path: str) -> frozenset[str]:
    wanted: frozenset[str] = frozenset()
    for name, key in (("question", source.question), ("solution", source.solution)):
        try:
            wanted |= columns_of(key) if key else frozenset()
        except TemplateError as error:
            why = f"the template cannot be used: {error.message}"
            raise ConfigError([Problem(f"{path}.{name}", key, why)]) from error
    return wanted


def _question(record: Record, source: SourceConfig) -> Question:
    context, text = _asked(record, source)
    text = text.strip().removeprefix(source.strip_prefix).removesuffix(source.strip_suffix).strip()
    if is_blank(text):
        raise MissingError("no question")
    solution = _solution(record, source.solution)
    return Question(text, truth_of(record.columns, source), context, columns=record.columns, solution=solution)


def _solution(record: Record, key: str | None) -> str:
    """
    Raises:
        MissingError: a solution is wanted, and there is none.
    """
    if key is None:
        return ""
    found = fill(key, record.columns) if is_template(key) else pick(record.columns, key)
    solution = as_text(found, "solution").strip()
    if is_blank(solution):
        raise MissingError("no solution")
    return solution


def _asked(record: Record, source: SourceConfig) -> tuple[tuple[Message, ...], str]:
    """The messages before the question, and its text."""
    if is_template(source.question):
        return (), as_text(fill(source.question, record.columns), "question")
    value = pick(record.columns, source.question)
    spelled = from_json(value)
    return split_messages(spelled) if are_messages(spelled) else ((), as_text(value, "question"))


# -- what is said of it


def _nothing(
    source: SourceConfig, path: str, dropped: Sequence[Dropped], excluded: int, conflicts: Sequence[Conflict]
) -> Problem:
    if conflicts:
        why = f"nothing is left: {conflict_words(conflicts)}"
        return Problem(f"{path}.conflicts", source.conflicts, why, "name the columns that make up a question")
    if dropped:
        first, count = dropped[0], len(dropped)
        why = f"there are no questions in it: {first.place} has {first.reason}{first.detail}" + (
            f" ({count} rows were dropped)" if count > 1 else ""
        )
        filters = f" and {path}.where" if source.where else ""
        remedy = f"set {path}.question and {path}.answer{filters} to your columns"
        return Problem(f"{path}.path", source.path, why, remedy)
    if excluded:
        wanted = yaml.safe_dump(source.model_dump(mode="json")["where"], default_flow_style=True, allow_unicode=True)
        why = f"of {counted(excluded, 'row')} none has these values"
        return Problem(f"{path}.where", " ".join(wanted.split()), why, "change it")
    return Problem(f"{path}.path", source.path, "there are no questions in it", "give a non-empty dataset")


def _drop_notes(dropped: Sequence[Dropped]) -> Iterator[str]:
    for reason, count in Counter(one.reason for one in dropped).most_common():
        places = [one.place for one in dropped if one.reason == reason]
        yield f"{counted(count, 'row')} dropped: {reason} ({_listed(places)})"


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items[:SHOWN]) + (f" and {len(items) - SHOWN} more" if len(items) > SHOWN else "")


def _conflict_notes(conflicts: Sequence[Conflict], source: SourceConfig, path: str) -> Iterable[str]:
    if conflicts:
        done = "all were dropped" if source.conflicts == "drop" else "each was kept with every answer"
        yield f"{conflict_words(conflicts)}; {done} ({path}.conflicts={source.conflicts})"
