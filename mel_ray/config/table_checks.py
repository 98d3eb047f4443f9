"""What can be known to be wrong with the columns of a source, and with benchmarks, before any file is read."""

import re
from collections.abc import Iterator, Sequence

from jinja2 import Environment, TemplateError

from mel_ray.config.names import entry_key, find_name_problem
from mel_ray.config.schema import BenchmarkConfig, SourceConfig
from mel_ray.records.problem import Problem


def find_column_problems(source: SourceConfig, path: str) -> Iterator[Problem]:
    """Problems of a training source or a benchmark; `path` names its key."""
    if source.kind != "table" and source.path is not None:
        why = "an embedded world has no file"
        yield Problem(f"{path}.path", source.path, why, f"use data=table, or {path}.kind=table, to read a file")
    yield from _world_problems(source, path)
    try:
        if source.answer_pattern and re.compile(source.answer_pattern).groups < 1:
            why = "it has no group"
            yield Problem(f"{path}.answer_pattern", source.answer_pattern, why, "put () around the answer")
    except re.error as error:
        yield Problem(f"{path}.answer_pattern", source.answer_pattern, f"not a regular expression: {error}")
    for name, template in (("question", source.question), ("answer", source.answer)):
        try:
            Environment().parse(template)
        except TemplateError as error:
            why = f"not a Jinja template: {error.message}"
            yield Problem(f"{path}.{name}", template, why, 'write columns as "{{ name }}"')


def _world_problems(source: SourceConfig, path: str) -> Iterator[Problem]:
    if not set(source.phrasings) <= {0, 1, 2} or not source.phrasings:
        why = "a problem has the phrasings 0, 1 and 2"
        yield Problem(f"{path}.phrasings", list(source.phrasings), why, "name at least one of them")
    if source.kind == "world" and source.split == "unasked":
        why = "only the world of rules has rules that training never asks"
        yield Problem(f"{path}.split", source.split, why, f"use heldout, or {path}.kind=rules")
    if source.band is not None and source.band not in source.bands:
        known = ", ".join(map(str, source.bands))
        yield Problem(f"{path}.band", source.band, f"no rule has it; the bands are {known}", "name one of them")


def find_benchmark_problems(benchmarks: Sequence[BenchmarkConfig]) -> Iterator[Problem]:
    for benchmark in benchmarks:
        yield from find_name_problem(entry_key("eval.benchmarks", benchmark.name), benchmark.name)
    names = [benchmark.name for benchmark in benchmarks]
    if len(set(names)) != len(names):
        yield Problem("eval.benchmarks", names, "a benchmark is named twice", "name each once")
