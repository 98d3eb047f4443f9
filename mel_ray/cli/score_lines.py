"""The lines that `mel score` judges: a response, what it is judged against, and the rules that find its answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from mel_ray.data.columns import MissingError, from_json
from mel_ray.data.formats import read_records
from mel_ray.data.golds import answers_in, options_in, shown, tolerance_in
from mel_ray.records.question import Question, Truth
from mel_ray.rewards.registry import RULES


@dataclass(frozen=True, slots=True)
class Line:
    """`place` is for messages, as in "line 7 of a.jsonl"; `columns` is the line as it was read."""

    place: str
    response: str
    question: Question
    rules: tuple[str, ...]

    @property
    def columns(self) -> Mapping[str, Any]:
        return self.question.columns


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for lines that say nothing else: extraction rules, what a list of answers means (`any` or `all` of
    them), and whether an answer may be missing."""

    rules: tuple[str, ...] = ("boxed",)
    answers: str = "all"
    needs_answer: bool = True


def read_lines(file: Path, defaults: Defaults) -> list[Line]:
    """All lines of a file.

    Raises:
        ValueError: a sentence that names the line, or the file if it cannot be read at all.
    """
    lines = []
    try:
        for record in read_records(file, {"response"}):
            try:
                lines.append(_line(record.place, record.columns, defaults))
            except (ValueError, MissingError) as error:
                raise _Refused(f"{file}: {record.place.partition(' of ')[0]}: {error}") from error
    except _Refused:
        raise
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return lines


class _Refused(ValueError):
    """Names the line already."""


def rules_of(given: Any) -> tuple[str, ...]:
    """Extraction rules from a list or a comma-separated text.

    Raises:
        ValueError: there is no such rule, or none is named.
    """
    names = given.split(",") if isinstance(given, str) else given
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"the extraction rules are {shown(given)}, neither a list nor a comma-separated text")
    rules = tuple(name.strip() for name in names)
    if unknown := [rule for rule in rules if rule not in RULES]:
        raise ValueError(f"there is no rule '{unknown[0]}'; there are: {', '.join(RULES)}")
    if not rules:
        raise ValueError(f"no extraction rule is named; there are: {', '.join(RULES)}")
    return rules


def _line(place: str, row: Mapping[str, Any], defaults: Defaults) -> Line:
    needed = ("response", "answer") if defaults.needs_answer else ("response",)
    if missing := [column for column in needed if column not in row]:
        raise ValueError(f"it lacks '{missing[0]}'; it has: {', '.join(map(str, row)) or 'nothing'}")
    response = row["response"]
    if not isinstance(response, str | int | float) or isinstance(response, bool):
        raise ValueError(f"the response is {shown(response)}, not a text")
    answers = _answers(row, defaults)
    others = answers_in(row["alternatives"], "alternatives") if _says(row, "alternatives") else []
    truth = Truth(answers[0], (*answers[1:], *others), tolerance_in(row.get("tolerance")), _options(row))
    rules = rules_of(from_json(row["extract"])) if _says(row, "extract") else defaults.rules
    return Line(place, str(response), Question(str(row.get("question") or ""), truth, columns=row), rules)


def _says(row: Mapping[str, Any], column: str) -> bool:
    """Whether a line has a column with something in it; a CSV file has empty texts where it has nothing."""
    return row.get(column) not in (None, "")


def _answers(row: Mapping[str, Any], defaults: Defaults) -> list[str]:
    try:
        answers = answers_in(row.get("answer"), "answer")
    except MissingError:
        if defaults.needs_answer:
            raise
        return [""]
    return [", ".join(answers)] if defaults.answers == "all" else answers


def _options(row: Mapping[str, Any]) -> tuple[str, ...]:
    if not _says(row, "options"):
        return ()
    labels, texts = options_in(row["options"])
    if [label.upper() for label in labels] != list(ascii_uppercase[: len(labels)]):
        raise ValueError(f"the options are labelled {', '.join(labels)}; they must be A, B, C and so on")
    return texts
