"""Loading questions: the embedded world, or a table (Parquet, JSONL, CSV) with a mapping of columns."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mel_ray.config.problems import ConfigError, Problem
from mel_ray.config.schema import SourceConfig
from mel_ray.data.question import Question

SUFFIXES = (".parquet", ".jsonl", ".json", ".csv")


def load_questions(source: SourceConfig, path: str = "data.train") -> list[Question]:
    """All questions of a source, in file order; `path` names the source's configuration key in errors.

    Raises:
        ConfigError: nothing to read, a wrong schema, or no questions; one sentence each.
    """
    if source.kind == "world":
        from mel_ray.data.world.problems import questions

        found = questions(source.split, source.count, source.seed, source.phrasings)
        rows: Iterable[Question] = (Question(problem.question, problem.answer) for problem in found)
    else:
        rows = _table_questions(source, path)
    kept = list(_deduplicated(rows)) if source.deduplicate else list(rows)
    if not kept:
        raise ConfigError(
            [Problem(f"{path}.path", source.path, "there are no questions in it", "give a non-empty dataset")]
        )
    return kept[: source.limit]


def _deduplicated(rows: Iterable[Question]) -> Iterator[Question]:
    seen: set[str] = set()
    for row in rows:
        key = " ".join(row.question.split())
        if key not in seen:
            seen.add(key)
            yield row


def _table_questions(source: SourceConfig, path: str) -> Iterator[Question]:
    for file in _files(source, path):
        try:
            for number, row in enumerate(_rows(file), 1):
                question, answer = (_descend(row, key, file, number, path) for key in (source.question, source.answer))
                yield Question(_stripped(question, source), answer.strip())
        except (OSError, ValueError, csv.Error) as error:
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
    except Exception as error:  # the hub client raises a dozen kinds; all mean: not to be had
        why = f"neither a local path nor to be had from the hub ({type(error).__name__})"
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


def _descend(row: Any, key: str, file: Path, number: int, path: str) -> str:
    """The value under a dotted key: `prompt.0.content` takes item 0 of the list `prompt`, then `content`."""
    value = row
    for part in key.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            found = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
            why = f"row {number} of {file.name} has no column '{key}'; it has: {found}"
            raise ConfigError([Problem(path, None, why, f"set {path}.question and {path}.answer to your columns")])
    if value is None or isinstance(value, dict | list):
        raise ConfigError([Problem(path, None, f"'{key}' in row {number} of {file.name} is not a text or number")])
    return str(value)
