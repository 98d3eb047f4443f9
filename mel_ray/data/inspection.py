"""What a dataset holds: counts, lengths, what was left out, kinds of answers, overlap with benchmarks."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mel_ray.config.schema import Config
from mel_ray.config.table_checks import find_benchmark_problems, find_column_problems
from mel_ray.data.contamination import GRAM, Overlap, overlaps
from mel_ray.data.datasets import Dropped, load
from mel_ray.data.decontamination import held_out
from mel_ray.data.files import UnavailableError
from mel_ray.data.prompt_lengths import PromptLengths, prompt_lengths
from mel_ray.data.repetitions import Conflict
from mel_ray.data.training import Seen
from mel_ray.records.problem import ConfigError, Problem
from mel_ray.records.question import Question

SHOWN = 5  # rows, conflicts, overlaps and examples that are listed
_KINDS = (
    ("integer", re.compile(r"[+-]?\d{1,3}(,\d{3})*|[+-]?\d+")),
    ("decimal", re.compile(r"[+-]?\d*\.\d+")),
    ("fraction", re.compile(r"[+-]?(\\[dt]?frac\{[^{}]*\}\{[^{}]*\}|\d+/\d+)")),
    ("choice letter", re.compile(r"\(?[A-J]\)?")),
    ("list, tuple, set or interval", re.compile(r"\\?[\[({].*[,;].*[\])}]|[^\\]*,.*")),
    ("text", re.compile(r"(\\text\{.*\}|[A-Za-z][A-Za-z ]{2,})")),
)


def answer_kind(answer: str) -> str:
    """A rough kind of a ground truth, for a table."""
    text = answer.strip().strip("$").strip()
    return next((kind for kind, pattern in _KINDS if pattern.fullmatch(text)), "expression")


@dataclass(frozen=True, slots=True)
class Leaks:
    """A benchmark, its number of questions, and the training questions that overlap with them, the worst first."""

    benchmark: str
    questions: int
    overlaps: tuple[Overlap, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """`notes` are sentences about what was left out; `too_long` counts prompts longer than training takes."""

    rows: int
    repeated: int
    questions: tuple[Question, ...]
    dropped: tuple[Dropped, ...]
    conflicts: tuple[Conflict, ...]
    notes: tuple[str, ...]
    lengths: PromptLengths
    too_long: int
    kinds: Counter[str]
    leaks: tuple[Leaks, ...]
    max_overlap: float


def inspect(config: Config) -> Inspection:
    """
    Raises:
        ConfigError: the data or a benchmark cannot be loaded.
    """
    if problems := list(_column_problems(config)):
        raise ConfigError(problems)
    seen, sources = Seen(), []
    asked: list[tuple[Question, str]] = []
    notes: list[str] = []
    for source in config.data.sources:
        key = config.data.source_key(source)
        loaded = load(source, key)
        named = [replace(question, source=source.name) for question in loaded.questions]
        new, repeated = seen.new(named, source, key)
        asked += [(question, source.prompt or config.data.prompt) for question in new]
        prefix = f"source {source.name}: " if len(config.data.sources) > 1 else ""
        notes += [prefix + note for note in (*loaded.notes, repeated) if note]
        sources.append(loaded)
    questions = tuple(question for question, _ in asked)
    lengths = prompt_lengths(config, asked)
    held: dict[str, Sequence[Question]] = {}
    for benchmark in config.eval.benchmarks:
        try:
            found = load(benchmark.source, f"eval.benchmarks[{benchmark.name}]")
        except UnavailableError as error:
            notes.append(f"benchmark {benchmark.name} was not compared: {error.problems[0]}")
            continue
        held[benchmark.name] = found.questions
        notes += [f"benchmark {benchmark.name}: {note}" for note in found.notes]
    all_tables = [one for one in questions if _is_table(config, one)]
    shared = overlaps(all_tables, held_out(config, held))
    return Inspection(
        rows=sum(one.rows for one in sources),
        repeated=sum(one.repeated for one in sources),
        questions=questions,
        dropped=tuple(row for one in sources for row in one.dropped),
        conflicts=tuple(conflict for one in sources for conflict in one.conflicts),
        notes=tuple(notes),
        lengths=lengths,
        too_long=sum(length > config.prompt_limit for length in lengths.values) if lengths.unit == "tokens" else 0,
        kinds=Counter(answer_kind(question.truth.answer) for question in questions),
        leaks=tuple(
            Leaks(name, len(found), tuple(one for one in shared if one.benchmark == name))
            for name, found in held_out(config, held).items()
        ),
        max_overlap=config.eval.max_overlap,
    )


def _column_problems(config: Config) -> Iterator[Problem]:
    for source in config.data.sources:
        yield from find_column_problems(source, config.data.source_key(source))
    for benchmark in config.eval.benchmarks:
        yield from find_column_problems(benchmark.source, f"eval.benchmarks[{benchmark.name}]")
    yield from find_benchmark_problems(config.eval.benchmarks)


def _is_table(config: Config, question: Question) -> bool:
    return any(source.kind == "table" and source.name == question.source for source in config.data.sources)


# -- as text


def quantile(values: Sequence[int], share: float) -> int:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def text(found: Inspection) -> str:
    values = found.lengths.values
    lines = [
        f"rows {found.rows}, questions {len(found.questions)}, repeated {found.repeated}",
        *found.notes,
        *(f"  {one.place}: {one.reason}{one.detail}" for one in found.dropped[:SHOWN] if one.detail),
        *(f"  {' and '.join(one.answers)}: {_line(one.text, 200)}" for one in found.conflicts[:SHOWN]),
        f"prompt {found.lengths.unit} ({found.lengths.how}): median {quantile(values, 0.5)}, "
        f"95% {quantile(values, 0.95)}, longest {max(values)}"
        + (f", too long {found.too_long}" if found.too_long else ""),
        "answers: " + ", ".join(f"{kind} {count}" for kind, count in found.kinds.most_common()),
    ]
    for leaks in found.leaks:
        lines += _leak_lines(leaks, found.max_overlap)
    lines.append("examples:")
    step = max(1, len(found.questions) // SHOWN)
    for question in found.questions[::step][:SHOWN]:
        lines += [f"  {_line(question.text, 300)}", f"    answer: {_answers(question)}"]
    return "\n".join(lines)


def _line(text: str, length: int) -> str:
    return " ".join(text.split())[:length]


def _answers(question: Question) -> str:
    return " or ".join((question.truth.answer, *question.truth.alternatives))


def _leak_lines(leaks: Leaks, limit: float) -> list[str]:
    """The count that matters, and the worst pairs."""
    worst = [one for one in leaks.overlaps if one.share >= limit]
    largest = f"; the largest overlap is {leaks.overlaps[0].share:.0%}" if leaks.overlaps else ""
    lines = [
        f"contamination: {len(worst)} training questions hold {limit:.0%} or more of a question of {leaks.benchmark} "
        f"({leaks.questions} questions), {len(leaks.overlaps)} share {GRAM} words in a row with one{largest}"
    ]
    for one in leaks.overlaps[:SHOWN]:
        lines += [f"  {one.share:.0%} of: {_line(one.held.text, 200)}", f"    in: {_line(one.train.text, 200)}"]
    return lines
