"""Training questions from one source or several: loaded, without repetitions, within their band, rendered."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mel_ray.config.schema import Config, TrainSourceConfig
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.datasets import load
from mel_ray.data.interleave import Turns
from mel_ray.data.pass_rate_file import within_band
from mel_ray.data.prompts import Rendered, usable_prompts
from mel_ray.data.repetitions import asked
from mel_ray.records.problem import ConfigError, Problem
from mel_ray.records.question import Question
from mel_ray.rewards.registry import plain_form


@dataclass(frozen=True, slots=True)
class TrainSource:
    """What became of a source; `dropped` says how many questions were left out and why."""

    name: str
    share: float
    rendered: Rendered
    dropped: tuple[str, ...] = ()


class Seen:
    """The questions of the sources so far."""

    def __init__(self) -> None:
        self._first: dict[object, Question] = {}

    def new(self, questions: Sequence[Question], source: TrainSourceConfig, key: str) -> tuple[list[Question], str]:
        """The questions that no earlier source has, and a sentence about the others.

        Raises:
            ConfigError: one has another answer there, and `conflicts` forbids that.
        """
        kept, repeated, contradicted = [], 0, []
        own: dict[object, Question] = {}
        for question in questions:
            earlier = self._first.get(asked(question))
            if earlier is None:
                kept.append(question)
                own.setdefault(asked(question), question)
                continue
            repeated += 1
            if plain_form(earlier.truth.answer) != plain_form(question.truth.answer):
                contradicted.append((earlier, question))
        if contradicted and source.conflicts == "error":
            first, second = contradicted[0]
            why = f"{len(contradicted)} of its questions stand in an earlier source with another answer, e.g. "
            why += f"{first.text[:80]!r} with {first.truth.answer!r} in {first.source}, {second.truth.answer!r} here"
            raise ConfigError([Problem(key, None, why, f"mend them, or set {key}.conflicts=drop")])
        self._first |= own
        others = f", {len(contradicted)} of them with another answer" if contradicted else ""
        return kept, _count(repeated, f"an earlier source has the same{others}")


def load_training(config: Config, tokenizer: ChatTokenizer) -> tuple[TrainSource, ...]:
    """
    Raises:
        ConfigError: with every problem of every source.
    """
    seen, shares, made = Seen(), _shares(config.data.sources), []
    problems: list[Problem] = []
    for source, share in zip(config.data.sources, shares, strict=True):
        try:
            made.append(_source(config, source, share, seen, tokenizer))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return tuple(made)


def _shares(sources: Iterable[TrainSourceConfig]) -> list[float]:
    turns = Turns([source.weight for source in sources])
    return [weight / turns.period for weight in turns.weights]


def _source(
    config: Config, source: TrainSourceConfig, share: float, seen: Seen, tokenizer: ChatTokenizer
) -> TrainSource:
    key = config.data.source_key(source)
    loaded = load(source, key)
    named = [replace(question, source=source.name) for question in loaded.questions]
    new, repeated = seen.new(named, source, key)
    if not new:
        why = "earlier sources have all of its questions"
        raise ConfigError([Problem(key, None, why, "leave it out, or put it first")])
    band = within_band(new, source, key)
    rendered = usable_prompts(config, tokenizer, band.questions, loaded.rows, key, source.prompt)
    dropped = [
        *loaded.notes,
        repeated,
        _count(band.outside, f"pass rate not in {list(source.pass_rate or ())}"),
        _count(band.unmeasured, f"not measured in {source.pass_rate_file}"),
        _count(rendered.too_long, f"longer than {config.prompt_limit} prompt tokens"),
    ]
    return TrainSource(source.name, share, rendered, tuple(filter(None, dropped)))


def _count(number: int, why: str) -> str:
    return f"{number} question{'s' if number > 1 else ''} dropped: {why}" if number else ""
