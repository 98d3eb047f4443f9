"""Loading questions: the embedded world, or a table (Parquet, JSONL, CSV) with a mapping of columns."""

import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mel_ray.config.schema import SourceConfig
from mel_ray.records.problem import ConfigError, Problem
from mel_ray.records.question import Question, Truth

SUFFIXES = (".parquet", ".jsonl", ".json", ".csv")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The questions of a source, and how many rows they came from."""

    questions: tuple[Question, ...]
    rows: int


def load(source: SourceConfig, path: str = "data.train") -> Loaded:
    """All questions of a source, in file order; `path` names the source's configuration key in errors.

    Raises:
        ConfigError: nothing to read, a wrong schema, or no questions; one sentence each.
    """
    if source.kind == "world":
        from mel_ray.data.world.problems import questions

        found = questions(source.split, source.count, source.seed, source.phrasings)
        rows: Iterable[Question] = (Question(problem.question, Truth(problem.answer)) for problem in found)
    else:
        rows = _table_questions(source, path)
    kept, seen, count = [], set(), 0
    for row in rows:
        count += 1
        key = " ".join(row.text.split()) if source.deduplicate else str(count)
        if key not in seen:
            seen.add(key)
            kept.append(row)
    if not kept:
        why = "there are no questions in it"
        raise ConfigError([Problem(f"{path}.path", source.path, why, "give a non-empty dataset")])
    return Loaded(tuple(kept[: source.limit]), count)


def _table_questions(source: SourceConfig, path: str) -> Iterator[Question]:
    for file in _files(source, path):
        try:
            for number, row in enumerate(_rows(file), 1):
                where = _Where(row, file, number, path)
                if all(where.text(column) == str(wanted) for column, wanted in source.where.items()):
                    question = _stripped(where.text(source.question), source)
                    answer = _answer(where.text(source.answer), source)
                    truth = Truth(answer, tolerance=_tolerance(where, source))
                    yield Question(question, truth, columns=row)
        except (OSError, ValueError, IndexError, re.error, csv.Error) as error:
            why = f"cannot read {file}: {str(error).splitlines()[0]}"
            raise ConfigError([Problem(f"{path}.path", source.path, why)]) from error


def _stripped(question: str, source: SourceConfig) -> str:
    return question.removeprefix(source.strip_prefix).removesuffix(source.strip_suffix).strip()


def _files(source: SourceConfig, path: str) -> list[Path]:
    key = f"{path}.path"
    if source.path is None:
        raise ConfigError([Problem(key, None, "a table needs a file, a folder or a dataset's hub id", "set it")])
    local = Path(source.path).expanduser()
    if not local.exists():
        if source.path.startswith((".", "/", "~")) or source.path.count("/") != 1 or local.suffix in SUFFIXES:
            raise ConfigError([Problem(key, source.path, "there is no such file or folder", "give an existing one")])
        local = _from_hub(source, key)
    files = [local] if local.is_file() else sorted(f for f in local.rglob("*") if f.suffix in SUFFIXES)
    if not files or any(file.suffix not in SUFFIXES for file in files):
        raise ConfigError([Problem(key, source.path, f"there are no files of kind {', '.join(SUFFIXES)}")])
    return files


def _from_hub(source: SourceConfig, key: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(str(source.path), repo_type="dataset", allow_patterns=[source.hub_files])
    except Exception as error:  # the hub client raises a dozen kinds, which all mean: not available
        why = f"neither a local path nor available from the hub ({type(error).__name__})"
        raise ConfigError(
            [Problem(key, source.path, why, "check the name and the network, or give a local copy")]
        ) from error
    return Path(folder)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    if file.suffix == ".parquet":
        import pyarrow.parquet

        for batch in pyarrow.parquet.ParquetFile(file).iter_batches():
            yield from batch.to_pylist()
    elif file.suffix == ".csv":
        csv.field_size_limit(sys.maxsize)
        with file.open(encoding="utf-8", newline="") as stream:
            yield from csv.DictReader(stream)
    else:
        with file.open(encoding="utf-8") as stream:
            for line in stream:
                if line.strip():
                    yield json.loads(line)


@dataclass(frozen=True, slots=True)
class _Where:
    """A row, and where it stands, for errors."""

    row: Any
    file: Path
    number: int
    path: str

    def text(self, key: str) -> str:
        """The value under a dotted key: `prompt.0.content` takes item 0 of the list `prompt`, then `content`.

        A list of texts (OlympiadBench's `final_answer`) is joined by commas.
        """
        value = self.row
        for part in key.split("."):
            if isinstance(value, dict) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
            else:
                found = ", ".join(map(str, self.row)) if isinstance(self.row, dict) else type(self.row).__name__
                why = f"row {self.number} of {self.file.name} has no column '{key}'; it has: {found}"
                remedy = f"set {self.path}.question and {self.path}.answer to your columns"
                raise ConfigError([Problem(self.path, None, why, remedy)])
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            return ", ".join(value)
        if value is None or isinstance(value, dict | list):
            why = f"'{key}' in row {self.number} of {self.file.name} is not a text or number"
            raise ConfigError([Problem(self.path, None, why)])
        return str(value)


def _answer(text: str, source: SourceConfig) -> str:
    """The ground truth within the answer column.

    Raises:
        ValueError: the column does not hold what `answer_pattern` or `answer_in_box` promise.
    """
    if source.answer_pattern:
        match = re.search(source.answer_pattern, text)
        if not match:
            raise ValueError(f"answer_pattern does not match {text[-60:]!r}")
        text = match[1]
    if source.answer_in_box:
        start = text.rfind("\\boxed{")
        if start < 0:
            raise ValueError(f"no \\boxed{{}} in {text[-60:]!r}")
        text = _braced(text[start + len("\\boxed") :])
    return text.strip().strip("$").strip()


def _braced(text: str) -> str:
    """What the braces that `text` begins with enclose."""
    depth = 0
    for position, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return text[1:position]
    raise ValueError(f"unclosed \\boxed{{}} in {text[:60]!r}")


def _tolerance(where: _Where, source: SourceConfig) -> float:
    if source.tolerance is None or not isinstance(where.row, dict) or where.row.get(source.tolerance) in (None, ""):
        return 0.0
    return float(str(where.row[source.tolerance]).split(",")[0])
