"""What can be known to be wrong with training sources before any file is read."""

from collections import Counter
from collections.abc import Iterator

from mel_ray.config.names import find_name_problem
from mel_ray.config.schema import DataConfig, TrainSourceConfig
from mel_ray.config.templates import template_problem
from mel_ray.records.problem import Problem

_OF_THE_WORLD = {"kind", "split", "count", "phrasings", "seed", "rules", "bands", "band"}


def find_source_problems(data: DataConfig) -> Iterator[Problem]:
    for name, count in Counter(source.name for source in data.sources).items():
        if count > 1:
            yield Problem("data.train", name, f"{count} sources have this name", "give each a name of its own")
    for source in data.sources:
        path = data.source_key(source)
        yield from find_name_problem(path, source.name)
        if source.prompt is not None and (malformed := template_problem(source.prompt, "question")):
            yield Problem(f"{path}.prompt", source.prompt, malformed, "use only {{ question }}")
        is_of_the_world = _OF_THE_WORLD & source.model_fields_set
        if isinstance(data.train, tuple) and source.path is None and not is_of_the_world:
            why = "a source of a list needs files"
            yield Problem(f"{path}.path", None, why, "name them, or say kind: world for the embedded problems")
        yield from _pass_rates(source, path)


def _pass_rates(source: TrainSourceConfig, path: str) -> Iterator[Problem]:
    if source.pass_rate is None:
        if source.pass_rate_file is not None:
            why = "it is used for a band of pass rates, and there is none"
            yield Problem(f"{path}.pass_rate_file", source.pass_rate_file, why, f"set {path}.pass_rate=[0.1,0.9]")
        return
    low, high = source.pass_rate
    if not 0 <= low <= high <= 1:
        why = "a band goes from its lowest to its highest pass rate, both in [0, 1]"
        yield Problem(f"{path}.pass_rate", list(source.pass_rate), why, "write it as [0.1,0.9]")
    if source.pass_rate_file is None:
        why = "the pass rates are not known"
        yield Problem(f"{path}.pass_rate_file", None, why, "measure them with `mel pass-rate`, and name its file here")
