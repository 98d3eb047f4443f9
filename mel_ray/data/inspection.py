"""What a dataset holds: counts, lengths, repeated questions, kinds of answers, overlap with benchmarks."""

import html
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mel_ray.config.schema import Config
from mel_ray.config.templates import render
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.datasets import load
from mel_ray.data.model_folder import locate_model
from mel_ray.records.problem import ConfigError
from mel_ray.records.question import Question

GRAM = 13
_WORD = re.compile(r"\w+")
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


def grams(question: str, size: int = GRAM) -> set[tuple[str, ...]]:
    """Word n-grams in lower case; a shorter question is one gram, the whole of it."""
    words = tuple(_WORD.findall(question.lower()))
    return {words[i : i + size] for i in range(max(1, len(words) - size + 1))} if words else set()


def contaminated(train: Iterable[Question], evaluation: Iterable[Question]) -> list[Question]:
    """Training questions that share a 13-gram with an evaluation question."""
    known = {gram for question in evaluation for gram in grams(question.text)}
    return [question for question in train if not known.isdisjoint(grams(question.text))]


@dataclass(frozen=True, slots=True)
class Inspection:
    rows: int
    questions: tuple[Question, ...]
    lengths: tuple[int, ...]
    too_long: int
    unit: str
    kinds: Counter[str]
    overlaps: dict[str, tuple[int, int]]  # benchmark -> (its questions, training questions that share a 13-gram)


def _lengths(config: Config, questions: Sequence[Question]) -> tuple[tuple[int, ...], str]:
    """Prompt lengths in tokens where the model's tokenizer can be had, else in words."""
    try:
        tokenizer = ChatTokenizer(locate_model(config.model.path), config.model)
    except ConfigError:
        return tuple(len(q.text.split()) for q in questions), "words"
    prompts = (render(config.data.prompt, question=q.text) for q in questions)
    return tuple(len(tokenizer.prompt_ids(prompt)) for prompt in prompts), "tokens"


def inspect(config: Config) -> Inspection:
    """
    Raises:
        ConfigError: the data or a benchmark cannot be loaded.
    """
    source = config.data.train
    loaded = load(source)
    questions = loaded.questions
    lengths, unit = _lengths(config, questions)
    overlaps = {}
    for benchmark in config.eval.benchmarks:
        held = load(benchmark.source, f"eval.benchmarks[{benchmark.name}].source").questions
        overlaps[benchmark.name] = (len(held), len(contaminated(questions, held)))
    too_long = sum(length > config.prompt_limit for length in lengths) if unit == "tokens" else 0
    kinds = Counter(answer_kind(question.truth.answer) for question in questions)
    return Inspection(loaded.rows, questions, lengths, too_long, unit, kinds, overlaps)


def _quantile(values: Sequence[int], share: float) -> int:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def text(found: Inspection) -> str:
    lengths = found.lengths
    lines = [
        f"rows {found.rows}, questions {len(found.questions)}, repeated {found.rows - len(found.questions)}",
        f"prompt {found.unit}: median {_quantile(lengths, 0.5)}, 95% {_quantile(lengths, 0.95)}, longest {max(lengths)}"
        + (f", too long {found.too_long}" if found.too_long else ""),
        "answers: " + ", ".join(f"{kind} {count}" for kind, count in found.kinds.most_common()),
    ]
    for name, (count, shared) in found.overlaps.items():
        lines.append(f"contamination: {shared} training questions share a {GRAM}-gram with {name} ({count} questions)")
    lines.append("examples:")
    step = max(1, len(found.questions) // 5)
    for question in found.questions[::step][:5]:
        lines.append(f"  {' '.join(question.text.split())[:300]}\n    answer: {question.truth.answer}")
    return "\n".join(lines)


def _bars(title: str, counts: Sequence[tuple[str, int]]) -> str:
    top = max((count for _, count in counts), default=1) or 1
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td><i style='width:{300 * count / top:.0f}px'></i> {count}</td></tr>"
        for name, count in counts
    )
    return f"<h2>{html.escape(title)}</h2><table>{rows}</table>"


def _histogram(values: Sequence[int], bins: int = 20) -> list[tuple[str, int]]:
    low, high = min(values), max(values)
    width = max(1, -(-(high - low + 1) // bins))
    counts = Counter((value - low) // width for value in values)
    return [(f"{low + n * width}-{low + (n + 1) * width - 1}", counts[n]) for n in range(max(counts) + 1)]


def page(found: Inspection) -> str:
    """A small self-contained page."""
    style = ("body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:24px auto;padding:0 16px;color:#1c2430}"
             "td{padding:1px 10px 1px 0;white-space:nowrap}i{display:inline-block;height:12px;background:#1f5fbf}"
             "pre{white-space:pre-wrap;background:#f6f8fa;padding:12px;border-radius:6px}")  # fmt: skip
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>mel_ray data</title><style>{style}</style>"
        f"<h1>Dataset</h1><pre>{html.escape(text(found))}</pre>"
        + _bars(f"Prompt length in {found.unit}", _histogram(found.lengths))
        + _bars("Answer length in characters", _histogram([len(q.truth.answer) for q in found.questions]))
        + _bars("Answer kinds", found.kinds.most_common())
        + "</html>"
    )
