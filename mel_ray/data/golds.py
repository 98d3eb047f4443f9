r"""The correct answer of a row: found in its column, without dress such as `$...$` and a full stop."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mel_ray.config.schema import SourceConfig
from mel_ray.data.columns import MissingError, WrongKindError, as_text, fill, from_json, is_template, pick
from mel_ray.data.options import options_of
from mel_ray.records.question import Truth
from mel_ray.rewards.registry import final_boxes, plain_form

_FORMULA = re.compile(r"(?<!\\)\$\$?((?:[^$\\]|\\.)+)(?<!\\)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
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
        try:
            labels, options = options_of(from_json(pick(row, source.options)))
        except ValueError as error:
            raise WrongKindError(str(error)) from error
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
    spelled = from_json(value)
    if isinstance(spelled, list) and (isinstance(value, list) or all(isinstance(one, str) for one in spelled)):
        value = spelled
    items = value if isinstance(value, list) else [value]
    if not items:
        raise MissingError("no answer")
    answers = []
    for item in items:
        answers += _within(as_text(item, "answer"), source)
    return list(dict.fromkeys(answers))


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
    if not all(one.strip("$ ") for one in cleaned):
        raise MissingError("no answer")
    return cleaned


def undressed(answer: str) -> str:
    """Without the marks of formulas, where it is formulas alone, and without a full stop."""
    text = _without_stop(answer.strip())
    outside = _FORMULA.split(text)[:: _FORMULA.groups + 1]
    if len(outside) > 1 and all(_BETWEEN.fullmatch(one) for one in outside):
        text = _FORMULA.sub(lambda match: next(filter(None, match.groups())).strip(), text)
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
    """The column's tolerance; several, separated by commas, belong to the items of a list."""
    if source.tolerance is None:
        return 0.0
    try:
        text = as_text(pick(row, source.tolerance), "tolerance")
    except MissingError:
        return 0.0
    try:
        numbers = [float(one) for one in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(0 <= number < math.inf for number in numbers):
        raise WrongKindError(f"the tolerance is '{text}', not a number of at least 0")
    return numbers[0] if len(numbers) == 1 else tuple(numbers)
