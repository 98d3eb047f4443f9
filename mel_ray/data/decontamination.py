"""`eval.decontaminate`: training questions that hold much of a benchmark's question are counted, or dropped."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from mel_ray.config.schema import Config
from mel_ray.data.contamination import Overlap, overlaps
from mel_ray.data.training import TrainSource, prefix
from mel_ray.records.problem import counted
from mel_ray.records.question import Question

Questions = Mapping[str, Sequence[Question]]  # of the benchmarks, by name


def decontaminated(
    config: Config, sources: Sequence[TrainSource], held: Questions
) -> tuple[tuple[TrainSource, ...], list[str]]:
    """(the sources, without contaminated questions if these are to be dropped; sentences where they are only counted).

    Questions of the embedded world are left out of account: its held-out problems differ in their numbers by design.
    """
    found = find_overlaps(config, [one.question for source in sources for one in source.rendered.prompts], held)
    kept, notes = [], []
    for source in sources:
        ids, sentence = contaminated(config, found, source.name)
        if ids and config.eval.decontaminate == "drop":
            prompts = tuple(one for one in source.rendered.prompts if one.question_id not in ids)
            rendered = replace(source.rendered, prompts=prompts)
            source = replace(source, rendered=rendered, dropped=(*source.dropped, sentence))
        elif ids:
            notes.append(prefix(source.name, sources) + sentence)
        kept.append(source)
    return tuple(kept), notes


def find_overlaps(config: Config, train: Iterable[Question], held: Questions) -> list[Overlap]:
    """The overlaps of training questions with benchmarks, the worst first; those of the embedded world have none."""
    tables = {source.name for source in config.data.sources if source.kind == "table"}
    return overlaps([one for one in train if one.source in tables], held_out(config, held))


def contaminated(config: Config, found: Iterable[Overlap], source: str) -> tuple[set[str], str]:
    """(the ids of a source's contaminated questions, a sentence on what becomes of them)."""
    worst = [one for one in found if one.train.source == source and one.share >= config.eval.max_overlap]
    ids = {one.train.question_id for one in worst}
    names = ", ".join(sorted({one.benchmark for one in worst}))
    they_hold, are = ("it holds", "is") if len(ids) == 1 else ("they hold", "are")
    what = f"{they_hold} {config.eval.max_overlap:.0%} or more of a question of {names}"
    count = counted(len(ids), "question")
    if config.eval.decontaminate == "drop":
        return ids, f"{count} dropped: {what}"
    return ids, f"{count} {are} contaminated: {what}; eval.decontaminate=drop drops {'it' if len(ids) == 1 else 'them'}"


def held_out(config: Config, questions: Questions) -> dict[str, Sequence[Question]]:
    """The questions of benchmarks, by name, that can be contaminated."""
    tables = {one.name for one in config.eval.benchmarks if one.source.kind == "table"}
    return {name: found for name, found in questions.items() if name in tables}
