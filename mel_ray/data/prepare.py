"""Everything that is made ready before Ray starts: model folder, tokenizer, prompts, benchmarks; and its problems."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from mel_ray.config.schema import BenchmarkConfig, Config
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.datasets import load
from mel_ray.data.decontamination import decontaminated
from mel_ray.data.interleave import Turns
from mel_ray.data.model_folder import locate_model
from mel_ray.data.model_support import support_problems
from mel_ray.data.prompts import Rendered, cleaned_words, too_long_words, usable_prompts
from mel_ray.data.training import TrainSource, load_questions, load_training, prefix
from mel_ray.records.evaluation import Benchmark
from mel_ray.records.problem import ConfigError, Problem, counted
from mel_ray.records.question import Question

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prepared:
    model_folder: Path
    tokenizer: ChatTokenizer
    sources: tuple[TrainSource, ...]
    benchmarks: tuple[Benchmark, ...]
    notes: tuple[str, ...] = ()  # on benchmarks, prompts without special tokens, contaminated questions that were kept

    @property
    def prompts(self) -> Rendered:
        """Those of all training sources."""
        rendered = [source.rendered for source in self.sources]
        prompts = tuple(prompt for one in rendered for prompt in one.prompts)
        return Rendered(prompts, sum(one.too_long for one in rendered), sum(one.rows for one in rendered))

    @property
    def dropped(self) -> list[str]:
        """Which questions were left out and why, one sentence each."""
        found = [prefix(one.name, self.sources) + why for one in self.sources for why in one.dropped]
        return [*found, *self.notes]

    @property
    def weight_files(self) -> list[Path]:
        return sorted([*self.model_folder.glob("*.safetensors"), *self.model_folder.glob("*.bin")])

    @property
    def weight_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.weight_files)


def _attempt(make: Callable[[], T], problems: list[Problem]) -> T | None:
    try:
        return make()
    except ConfigError as error:
        problems += error.problems
        return None


def _benchmark(
    config: Config, entry: BenchmarkConfig, tokenizer: ChatTokenizer
) -> tuple[Benchmark, list[Question], list[str]]:
    """The benchmark, all of its questions, and what was left out of it."""
    path = f"eval.benchmarks[{entry.name}]"
    loaded = load(entry.source, path)
    named = [replace(question, source=entry.name) for question in loaded.questions]
    rendered = usable_prompts(config, tokenizer, named, loaded.rows, path)
    notes = [*loaded.notes, *too_long_words(config, rendered.too_long), *cleaned_words(rendered.cleaned)]
    return Benchmark(entry.name, rendered.prompts), named, [f"benchmark {entry.name}: {note}" for note in notes]


def _too_few(config: Config, sources: Sequence[TrainSource]) -> Iterator[Problem]:
    """Where a batch would have to hold a question twice."""
    count, turns = config.rollout.prompts_per_step, Turns([source.weight for source in config.data.sources])
    for index, source in enumerate(sources):
        usable, most = len(source.rendered.prompts), turns.most_in(count, index)
        if usable >= most:
            continue
        dropped = "; ".join(why for why in source.dropped)
        because = f" ({dropped})" if dropped else ""
        if len(sources) == 1:
            why, remedy = f"the dataset has only {counted(usable, 'usable question')}{because}", "lower it"
        else:
            why = f"source {source.name} has only {counted(usable, 'usable question')}{because}, "
            why += f"and a batch takes up to {most}"
            remedy = "lower it, or the weight of this source"
        yield Problem("rollout.prompts_per_step", count, why, remedy)


def prepare(config: Config, with_training_data: bool = True) -> Prepared:
    """Make everything ready; without training data for an evaluation.

    Raises:
        ConfigError: with every problem of model, data and benchmarks at once.
    """
    problems: list[Problem] = []
    folder = _attempt(lambda: locate_model(config.model.path), problems)
    tokenizer = _attempt(lambda: ChatTokenizer(folder, config.model), problems) if folder else None
    if tokenizer is None or folder is None:
        if with_training_data:
            load_questions(config, problems)  # report theirs too
        raise ConfigError(problems)
    train: tuple[TrainSource, ...] | None = ()
    if with_training_data:
        train = _attempt(lambda: load_training(config, tokenizer), problems)
    benchmarks: list[Benchmark] = []
    held: dict[str, Sequence[Question]] = {}
    notes: list[str] = []
    for entry in config.eval.benchmarks:
        if made := _attempt(partial(_benchmark, config, entry, tokenizer), problems):
            benchmark, held[entry.name], left_out = made
            benchmarks.append(benchmark)
            notes += left_out
    if train:
        train, contaminated = decontaminated(config, train, held)
        cleaned = [prefix(one.name, train) + words for one in train for words in cleaned_words(one.rendered.cleaned)]
        notes = [*cleaned, *notes, *contaminated]
    problems += support_problems(config, folder, tokenizer)
    problems += _too_few(config, train or ())
    if problems or train is None:
        raise ConfigError(problems)
    return Prepared(folder, tokenizer, train, tuple(benchmarks), tuple(notes))
