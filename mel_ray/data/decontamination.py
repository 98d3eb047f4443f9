"""`eval.decontaminate`: training questions that hold much of a benchmark's question are counted, or dropped."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mel_ray.config.schema import Config
from mel_ray.data.contamination import overlaps
from mel_ray.data.training import TrainSource
from mel_ray.records.evaluation import Benchmark
from mel_ray.records.question import Question


def decontaminated(
    config: Config, sources: Sequence[TrainSource], benchmarks: Sequence[Benchmark]
) -> tuple[tuple[TrainSource, ...], list[str]]:
    """(the sources, without contaminated questions if these are to be dropped; sentences where they are only counted).

    Questions of the embedded world are left out of account: its held-out problems differ in their numbers by design.
    """
    held = held_out(config, {one.name: [prompt.question for prompt in one.prompts] for one in benchmarks})
    is_table = {source.name: source.kind == "table" for source in config.data.sources}
    kept, notes = [], []
    for source in sources:
        questions = [prompt.question for prompt in source.rendered.prompts] if is_table[source.name] else []
        found = [one for one in overlaps(questions, held) if one.share >= config.eval.max_overlap]
        ids = {one.train.question_id for one in found}
        names = ", ".join(sorted({one.benchmark for one in found}))
        what = f"they hold {config.eval.max_overlap:.0%} or more of a question of {names}"
        if ids and config.eval.decontaminate == "drop":
            prompts = tuple(one for one in source.rendered.prompts if one.question_id not in ids)
            why = f"{len(ids)} questions dropped: {what}"
            source = replace(source, rendered=replace(source.rendered, prompts=prompts), dropped=(*source.dropped, why))
        elif ids:
            where = f"source {source.name}: " if len(sources) > 1 else ""
            notes.append(f"{where}{len(ids)} questions are contaminated: {what}; eval.decontaminate=drop drops them")
        kept.append(source)
    return tuple(kept), notes


def held_out(config: Config, questions: Mapping[str, Sequence[Question]]) -> dict[str, Sequence[Question]]:
    """The questions of benchmarks, by name, that can be contaminated."""
    tables = {one.name for one in config.eval.benchmarks if one.source.kind == "table"}
    return {name: found for name, found in questions.items() if name in tables}
