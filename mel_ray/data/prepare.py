"""Everything that is made ready before Ray starts: model folder, tokenizer, prompts, benchmarks; and its problems."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from mel_ray.config.schema import Config, SourceConfig
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.datasets import load
from mel_ray.data.model_folder import locate_model
from mel_ray.data.prompts import Rendered, render_prompts
from mel_ray.records.evaluation import Benchmark
from mel_ray.records.problem import ConfigError, Problem

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prepared:
    model_folder: Path
    tokenizer: ChatTokenizer
    prompts: Rendered
    benchmarks: tuple[Benchmark, ...]

    @property
    def weight_bytes(self) -> int:
        files = [*self.model_folder.glob("*.safetensors"), *self.model_folder.glob("*.bin")]
        return sum(file.stat().st_size for file in files)


def _attempt(make: Callable[[], T], problems: list[Problem]) -> T | None:
    try:
        return make()
    except ConfigError as error:
        problems += error.problems
        return None


def _positions(folder: Path) -> int | None:
    """Longest sequence a model was made for, where its configuration says so."""
    settings = json.loads((folder / "config.json").read_text())
    return (settings.get("text_config") or settings).get("max_position_embeddings")


def _prompts(config: Config, source: SourceConfig, path: str, tokenizer: ChatTokenizer) -> Rendered:
    loaded = load(source, path)
    limit = config.prompt_limit
    rendered = render_prompts(loaded.questions, tokenizer, config.data.prompt, limit, loaded.rows)
    if not rendered.prompts:
        why = f"all {len(loaded.questions)} questions are longer than the limit of {limit} prompt tokens"
        raise ConfigError([Problem(path, None, why, "raise model.max_context or data.max_prompt_tokens")])
    return rendered


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
            _attempt(lambda: load(config.data.train), problems)  # report its problems too
        raise ConfigError(problems)
    train: Rendered | None = Rendered((), 0, 0)
    if with_training_data:
        train = _attempt(lambda: _prompts(config, config.data.train, "data.train", tokenizer), problems)
    benchmarks = []
    for benchmark in config.eval.benchmarks:
        path = f"eval.benchmarks[{benchmark.name}].source"
        rendered = _attempt(partial(_prompts, config, benchmark.source, path, tokenizer), problems)
        if rendered:
            benchmarks.append(Benchmark(benchmark.name, rendered.prompts))
    if folder and (positions := _positions(folder)) and positions < config.model.max_context:
        why = f"the model knows only {positions} positions"
        problems.append(
            Problem("model.max_context", config.model.max_context, why, "lower it, and the max_tokens keys")
        )
    if with_training_data and train and len(train.prompts) < config.rollout.prompts_per_step:
        why = f"the dataset has only {len(train.prompts)} usable questions"
        problems.append(Problem("rollout.prompts_per_step", config.rollout.prompts_per_step, why, "lower it"))
    if problems or train is None:
        raise ConfigError(problems)
    return Prepared(folder, tokenizer, train, tuple(benchmarks))
