"""Training questions from one source or several: loaded, without repetitions, within their band, rendered."""

from collections.abc import Iterable, Sized
from dataclasses import dataclass, replace

from mel_ray.config.schema import Config, TrainSourceConfig
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.datasets import Loaded, load
from mel_ray.data.interleave import Turns
from mel_ray.data.pass_rate_file import within_band
from mel_ray.data.prompts import Rendered, too_long_words, usable_prompts
from mel_ray.data.repetitions import Conflict, Settlement, settle_across
from mel_ray.records.problem import ConfigError, Problem, counted
from mel_ray.records.question import Question


@dataclass(frozen=True, slots=True)
class SourceQuestions:
    """The questions of a source that may be rendered; `dropped` are sentences about what was left out or disputed."""

    source: TrainSourceConfig
    key: str
    loaded: Loaded
    questions: tuple[Question, ...]
    conflicts: tuple[Conflict, ...]
    dropped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TrainSource:
    """What became of a source; `dropped` says how many questions were left out and why."""

    name: str
    share: float
    rendered: Rendered
    dropped: tuple[str, ...] = ()


def prefix(name: str, sources: Sized) -> str:
    """What a sentence about one of the sources begins with."""
    return f"source {name}: " if len(sources) > 1 else ""


def load_questions(config: Config, problems: list[Problem]) -> list[SourceQuestions]:
    """The questions of every source that has no problem; those of the others are added to `problems`."""
    loaded: list[tuple[TrainSourceConfig, str, Loaded]] = []
    for source in config.data.sources:
        key = config.data.source_key(source)
        try:
            loaded.append((source, key, load(source, key)))
        except ConfigError as error:
            problems += error.problems
    try:
        settled = settle_across(
            [
                (source, key, _of_source(found.questions, source.name), _of_source(found.left_out, source.name))
                for source, key, found in loaded
            ]
        )
    except ConfigError as error:
        problems += error.problems
        return []
    made = []
    for (source, key, found), left in zip(loaded, settled, strict=True):
        try:
            made.append(_questions(source, key, found, left))
        except ConfigError as error:
            problems += error.problems
    return made


def _of_source(questions: Iterable[Question], name: str) -> list[Question]:
    return [replace(one, source=name) for one in questions]


def _questions(source: TrainSourceConfig, key: str, loaded: Loaded, left: Settlement) -> SourceQuestions:
    dropped = [
        *loaded.notes,
        _dropped(left.repeated, "an earlier source has the same"),
        _dropped(left.dropped, "another source has the same with another answer"),
    ]
    if left.disputed:
        dropped.append(f"{counted(left.disputed, 'question')} kept that another source has with another answer")
    if not left.kept:
        why = f"nothing is left: {'; '.join(filter(None, dropped))}"
        remedy = f"set {key}.conflicts=keep, also in the others" if left.dropped else "put it first"
        raise ConfigError([Problem(key, None, why, f"leave it out, or {remedy}")])
    band = within_band(left.kept, source, key)
    dropped += [
        _dropped(band.outside, f"pass rate not in {list(source.pass_rate or ())}"),
        _dropped(band.unmeasured, f"not measured in {source.pass_rate_file}"),
    ]
    return SourceQuestions(
        source, key, loaded, band.questions, (*loaded.conflicts, *left.conflicts), tuple(filter(None, dropped))
    )


def _dropped(number: int, why: str) -> str:
    return f"{counted(number, 'question')} dropped: {why}" if number else ""


def load_training(config: Config, tokenizer: ChatTokenizer) -> tuple[TrainSource, ...]:
    """
    Raises:
        ConfigError: with every problem of every source.
    """
    problems: list[Problem] = []
    turns = Turns([source.weight for source in config.data.sources])
    shares = dict(zip((source.name for source in config.data.sources), turns.weights, strict=True))
    made = []
    for one in load_questions(config, problems):
        try:
            rendered = usable_prompts(config, tokenizer, one.questions, one.loaded.rows, one.key, one.source.prompt)
        except ConfigError as error:
            problems += error.problems
            continue
        dropped = (*one.dropped, *too_long_words(config, rendered.too_long))
        name = one.source.name
        made.append(TrainSource(name, shares[name] / turns.period, rendered, dropped))
    if problems:
        raise ConfigError(problems)
    return tuple(made)
