"""What a dataset holds: counts, lengths, what was left out, kinds of answers, overlap with benchmarks."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mel_ray.config.checks import context_problems
from mel_ray.config.schema import Config
from mel_ray.config.table_checks import find_benchmark_problems, find_column_problems
from mel_ray.data.contamination import GRAM, Overlap
from mel_ray.data.datasets import Dropped, load
from mel_ray.data.decontamination import contaminated, find_overlaps, held_out
from mel_ray.data.files import UnavailableError
from mel_ray.data.prompt_lengths import PromptLengths, prompt_lengths
from mel_ray.data.prompts import cleaned_words, too_long_words
from mel_ray.data.repetitions import Conflict
from mel_ray.data.training import load_questions, prefix
from mel_ray.records.problem import ConfigError, Problem, counted
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
    """`questions` are those that training would use; `notes` are sentences about what was left out.

    `lengths` are of all prompts, and `leaks` of all questions that fit: those that were left out are among them.
    """

    rows: int
    repeated: int
    questions: tuple[Question, ...]
    dropped: tuple[Dropped, ...]
    conflicts: tuple[Conflict, ...]
    notes: tuple[str, ...]
    lengths: PromptLengths
    kinds: Counter[str]
    leaks: tuple[Leaks, ...]
    max_overlap: float


def inspect(config: Config) -> Inspection:
    """
    Raises:
        ConfigError: the data or a benchmark cannot be loaded, or prompts have no room.
    """
    problems = list(_column_problems(config))
    if config.prompt_limit < 1:
        problems += context_problems(config)
    sources = [] if problems else load_questions(config, problems)
    if problems:
        raise ConfigError(problems)
    asked = [(one, source.source.prompt or config.data.prompt) for source in sources for one in source.questions]
    lengths = prompt_lengths(config, asked)
    limit = config.prompt_limit if lengths.unit == "tokens" else max(lengths.values)
    fits = [(one, length <= limit) for (one, _), length in zip(asked, lengths.values, strict=True)]
    fitting = [one for one, is_fitting in fits if is_fitting]
    too_long = Counter(one.source for one, is_fitting in fits if not is_fitting)
    held, benchmark_notes = _benchmarks(config)
    found = find_overlaps(config, fitting, held)
    dropped: set[str] = set()
    notes = []
    for one in sources:
        name = one.source.name
        left_out = [*one.dropped, *too_long_words(config, too_long[name])]
        ids, sentence = contaminated(config, found, name)
        if ids and config.eval.decontaminate == "drop":
            dropped |= ids
            left_out.append(sentence)
        notes += [prefix(name, sources) + words for words in left_out]
    questions = tuple(one for one in fitting if one.question_id not in dropped)
    return Inspection(
        rows=sum(one.loaded.rows for one in sources),
        repeated=sum(one.loaded.repeated for one in sources),
        questions=questions,
        dropped=tuple(row for one in sources for row in one.loaded.dropped),
        conflicts=tuple(dict.fromkeys(conflict for one in sources for conflict in one.conflicts)),
        notes=(*notes, *cleaned_words(lengths.cleaned), *benchmark_notes),
        lengths=lengths,
        kinds=Counter(answer_kind(question.truth.answer) for question in questions),
        leaks=tuple(
            Leaks(name, len(those), tuple(one for one in found if one.benchmark == name))
            for name, those in held_out(config, held).items()
        ),
        max_overlap=config.eval.max_overlap,
    )


def _benchmarks(config: Config) -> tuple[dict[str, Sequence[Question]], list[str]]:
    """The questions of the benchmarks that are at hand, by name; and sentences about what was left out."""
    held: dict[str, Sequence[Question]] = {}
    notes = []
    for benchmark in config.eval.benchmarks:
        try:
            found = load(benchmark.source, f"eval.benchmarks[{benchmark.name}]")
        except UnavailableError as error:
            notes.append(f"benchmark {benchmark.name} was not compared: {error.problems[0]}")
            continue
        held[benchmark.name] = found.questions
        notes += [f"benchmark {benchmark.name}: {note}" for note in found.notes]
    return held, notes


def _column_problems(config: Config) -> Iterator[Problem]:
    for source in config.data.sources:
        yield from find_column_problems(source, config.data.source_key(source))
    for benchmark in config.eval.benchmarks:
        yield from find_column_problems(benchmark.source, f"eval.benchmarks[{benchmark.name}]")
    yield from find_benchmark_problems(config.eval.benchmarks)


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
        f"95% {quantile(values, 0.95)}, longest {max(values)}",
        "answers: " + (", ".join(f"{kind} {count}" for kind, count in found.kinds.most_common()) or "none"),
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
        f"contamination: {counted(len(worst), 'training question')} with {limit:.0%} or more of a question of "
        f"{leaks.benchmark} ({counted(leaks.questions, 'question')}), {len(leaks.overlaps)} with {GRAM} words in a row "
        f"of one{largest}"
    ]
    for one in leaks.overlaps[:SHOWN]:
        lines += [f"  {one.share:.0%} of: {_line(one.held.text, 200)}", f"    in: {_line(one.train.text, 200)}"]
    return lines
