r"""The correct answer of a row: found in its column, without dress such as `$...$` and a full stop."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mel_ray.config.schema import SourceConfig
from mel_ray.data.columns import (
    MissingError,
    WrongKindError,
    as_text,
    fill,
    from_json,
    is_blank,
    is_template,
    pick,
)
from mel_ray.data.options import options_of
from mel_ray.records.question import Truth
from mel_ray.rewards.registry import final_boxes, plain_form

_FORMULA = re.compile(r"(?<!\\)(\$\$?)((?:[^$\\]|\\.)+)(?<!\\)\1|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_BETWEEN = re.compile(r"[\s,;.]*(?:\b(?:and|or)\b)?[\s,;.]*")
_KEPT_STOP = re.compile(r"(?:\.\.|[A-Za-z]\.[A-Za-z]+\.|\\right\.|\\left\.)$")


def truth_of(row: Mapping[str, Any], source: SourceConfig) -> Truth:
    """What answers to the row's question are judged against.

    Raises:
        MissingError: the row has no answer.
        WrongKindError: its answer, options or tolerance are of a kind that cannot be used.
    """
    found = _answers(row, source)
    options: tuple[str, ...] = ()
    if source.options:
        labels, options = options_in(pick(row, source.options))
        letters = {label: chr(ord("A") + place) for place, label in enumerate(labels)}
        found = [letters.get(answer, answer) for answer in found]
        _check_choices(found, options)
    is_list = source.answers == "all"
    answer, *others = [", ".join(found)] if is_list else found
    return Truth(answer, alternatives=tuple(others), tolerance=_tolerance(row, source), options=options)


def _check_choices(answers: Sequence[str], options: Sequence[str]) -> None:
    """
    Raises:
        MissingError: an answer is neither a letter nor the text of an option; an index, say.
    """
    letters = [chr(ord("A") + place) for place in range(len(options))]
    known = {plain_form(one) for one in (*options, *letters, *(f"({letter})" for letter in letters))}
    for answer in answers:
        if plain_form(answer) not in known:
            raise MissingError(f"no answer: '{answer[:40]}' is none of the options")


def _answers(row: Mapping[str, Any], source: SourceConfig) -> list[str]:
    """Each answer of the row once; one unless its column holds a list."""
    value = fill(source.answer, row) if is_template(source.answer) else pick(row, source.answer)
    answers = [one for text in answers_in(value, "answer") for one in _within(text, source)]
    return list(dict.fromkeys(answers))


def answers_in(value: Any, what: str) -> list[str]:
    """Each text or number of a list once, as text; one where the value is no list. `what` names it in messages.

    JSON text that spells out a list of texts is such a list; "[1, 2]" is an interval.

    Raises:
        MissingError: the value, or an item of it, is null or blank, or the list is empty.
        WrongKindError: it is neither a text, a number nor a list of these.
    """
    spelled = from_json(value)
    is_list = isinstance(spelled, list) and (spelled is value or all(isinstance(one, str) for one in spelled))
    items = spelled if is_list else [value]
    if not items:
        raise MissingError(f"no {what}", " (the list is empty)")
    return list(dict.fromkeys(as_text(item, what) for item in items))


def options_in(value: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(labels, texts) of a multiple-choice question's options, which may be JSON text.

    Raises:
        WrongKindError: they are in none of the forms of `options_of`.
    """
    try:
        return options_of(from_json(value))
    except ValueError as error:
        raise WrongKindError(str(error)) from error


def tolerance_in(value: Any) -> float | tuple[float, ...]:
    """A tolerance, or one for each item of a list: a number, a list, or text with JSON or commas; 0 for none.

    Raises:
        WrongKindError: it is something else, or not at least 0.
    """
    if value is None or value != value or (isinstance(value, str) and is_blank(value)):  # NaN differs from itself
        return 0.0
    spelled = from_json(value)
    several = spelled.split(",") if isinstance(spelled, str) else spelled if isinstance(spelled, list) else [spelled]
    try:
        numbers = tuple(math.nan if isinstance(one, bool) else float(one) for one in several)
    except (TypeError, ValueError, OverflowError):
        numbers = ()
    if not numbers or not all(0 <= number < math.inf for number in numbers):
        raise WrongKindError(f"the tolerance is {shown(value)}, not a number of at least 0")
    return numbers[0] if len(numbers) == 1 else numbers


def shown(value: Any) -> str:
    """The beginning of a value, for messages."""
    return f"{value!r:.60}" if isinstance(value, str) else f"{value!s:.60}"


def _within(text: str, source: SourceConfig) -> list[str]:
    """The answers in the text of an answer column."""
    if source.answer_pattern:
        match = re.search(source.answer_pattern, text)
        if not match or match[1] is None:
            raise MissingError("no answer: answer_pattern does not match")
        text = match[1]
    found = [text]
    if source.answer_in_box:
        found = without_repeats([undressed(one) for one in final_boxes(text)])
        if not found:
            raise MissingError("no answer: no \\boxed{} in it")
        found = [", ".join(found)]
    cleaned = [undressed(one) for one in found]
    if any(is_blank(one.strip("$ ")) for one in cleaned):
        raise MissingError("no answer")
    return cleaned


def undressed(answer: str) -> str:
    """Without the marks of formulas, where it is formulas alone, and without a full stop."""
    text = _without_stop(answer.strip())
    outside = _FORMULA.split(text)[:: _FORMULA.groups + 1]
    if len(outside) > 1 and all(_BETWEEN.fullmatch(one) for one in outside):
        text = _FORMULA.sub(lambda match: next(filter(None, match.groups()[1:])).strip(), text)
    return _without_stop(text.strip())


def _without_stop(text: str) -> str:
    return text if _KEPT_STOP.search(text) else text.removesuffix(".").rstrip()


def without_repeats(answers: Sequence[str]) -> list[str]:
    """The answers that differ; of several spellings of one number the last."""
    found: dict[Any, str] = {}
    for answer in answers:
        found[plain_form(answer)] = answer
    return list(found.values())


def _tolerance(row: Mapping[str, Any], source: SourceConfig) -> float | tuple[float, ...]:
    try:
        return tolerance_in(pick(row, source.tolerance)) if source.tolerance else 0.0
    except MissingError:
        return 0.0
