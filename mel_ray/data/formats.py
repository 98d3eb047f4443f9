"""The rows of a file, each with the place where it stands: Parquet, CSV, JSON lines and JSON documents."""

import csv
import json
import re
import sys
from collections.abc import Iterator, Set
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from mel_ray.data.files import kind_of, read_bytes, read_text
from mel_ray.records.problem import counted


@dataclass(frozen=True, slots=True)
class Record:
    """A row; `place` is for messages, as in "line 7 of a.jsonl"."""

    place: str
    columns: dict[str, Any]


def read_records(file: Path, wanted: Set[str]) -> Iterator[Record]:
    """All rows of a file. `wanted` are columns that a row should have; they tell a row from an object that holds rows.

    Raises:
        ValueError: the file is damaged, or not what its name says; the message names the line.
        OSError: the file cannot be read.
    """
    kind = kind_of(file.name)
    if kind == ".parquet":
        yield from _parquet(file)
    elif kind == ".csv":
        yield from _csv(read_text(file), file.name)
    else:
        yield from _json(read_text(file), file.name, wanted)


def _parquet(file: Path) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    is_plain = file.suffix.lower() == ".parquet"
    table = pq.ParquetFile(file if is_plain else pa.BufferReader(read_bytes(file)))
    short = [field.name for field in table.schema_arrow if field.type in (pa.float16(), pa.float32())]
    for batch in table.iter_batches():
        for row in batch.to_pylist():
            number += 1
            for name in short:  # 0.1 in single precision is 0.1, not 0.10000000149
                row[name] = None if row[name] is None else float(str(np.float32(row[name])))
            yield Record(f"row {number} of {file.name}", row)


def _csv(text: str, name: str) -> Iterator[Record]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    names: list[str] | None = None
    line = 1
    try:
        for values in reader:
            if names is None:
                names = values
                if twice := {one for one in names if names.count(one) > 1}:
                    raise ValueError(f"its header names a column twice: {', '.join(sorted(twice))}")
            elif values:
                if len(values) != len(names):
                    count, columns = counted(len(values), "value"), counted(len(names), "column")
                    raise ValueError(f"line {line} has {count}, and the header names {columns}")
                yield Record(f"line {line} of {name}", dict(zip(names, values, strict=True)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"line {line} is cut off or not CSV ({error})") from error


def _json(text: str, name: str, wanted: Set[str]) -> Iterator[Record]:
    """JSON lines, or one document: a list of rows, a row, or an object that holds a list of rows."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    start = text.lstrip()[:1]
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if not line.isspace() and line]
    if start == "[" or (start == "{" and _is_document(lines[0][1])):
        yield from _document(_parsed(text, 1), name, wanted)
    elif len(lines) == 1 and _holds_rows(only := _parsed(lines[0][1], lines[0][0]), wanted):
        yield from _document(only, name, wanted)
    else:
        for number, line in lines:
            row = _parsed(line, number)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} holds {_in_words(row)}, not an object with columns")
            yield Record(f"line {number} of {name}", row)


def _is_document(first_line: str) -> bool:
    """Whether an object is spread over lines: its first line ends within it, at a place where JSON breaks lines."""
    return first_line.rstrip().endswith(("{", "[", ",", ":"))


def _holds_rows(value: Any, wanted: Set[str]) -> bool:
    """Whether an object is no row itself but holds a list of them."""
    return isinstance(value, dict) and not wanted <= value.keys() and bool(_lists_of_rows(value))


def _lists_of_rows(value: dict[str, Any]) -> dict[str, list[Any]]:
    return {key: one for key, one in value.items() if isinstance(one, list) and one and isinstance(one[0], dict)}


def _document(value: Any, name: str, wanted: Set[str]) -> Iterator[Record]:
    if isinstance(value, dict):
        lists = _lists_of_rows(value)
        if _holds_rows(value, wanted) and len(lists) > 1:
            raise ValueError(f"it is an object with several lists of rows ({', '.join(lists)}); keep one of them")
        value = next(iter(lists.values())) if _holds_rows(value, wanted) else [value]
    if not isinstance(value, list):
        raise ValueError(f"it holds {_in_words(value)}, not rows")
    for number, row in enumerate(value, 1):
        if not isinstance(row, dict):
            raise ValueError(f"item {number} is {_in_words(row)}, not an object with columns")
        yield Record(f"item {number} of {name}", row)


def _in_words(value: Any) -> str:
    kinds = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")


def _parsed(text: str, first_line: int) -> Any:
    """
    Raises:
        ValueError: the text is not JSON, or an object names a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_repeats, parse_int=whole_number)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        is_cut = not text[error.pos :].strip() or "Unterminated string" in error.msg
        state = "is cut off" if is_cut else "is not JSON"
        raise ValueError(f"line {line} {state} ({error.msg}, column {error.colno})") from error
    except RecursionError as error:
        raise ValueError(f"line {first_line} is nested too deeply") from error
    except _TooLongError as error:
        line = first_line + text.count("\n", 0, _place_of(error.digits, text))
        raise ValueError(f"line {line} holds {error}") from error
    except ValueError as error:
        raise ValueError(f"line {first_line}: {error}" if "\n" not in text.strip() else str(error)) from error


class _TooLongError(ValueError):
    """A number has more digits than Python reads."""

    def __init__(self, digits: str) -> None:
        super().__init__(f"a number of more than {sys.get_int_max_str_digits()} digits: write it as text")
        self.digits = digits


def whole_number(digits: str) -> int:
    """
    Raises:
        ValueError: there are too many digits; a sentence for the user.
    """
    try:
        return int(digits)
    except ValueError as error:
        raise _TooLongError(digits) from error


def _place_of(digits: str, text: str) -> int:
    """Where a number stands in JSON; the same digits may stand in texts before it."""
    for match in re.finditer(r'"(?:[^"\\]|\\.)*"|' + digits, text):
        if match[0] == digits:
            return match.start()
    return 0


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"an object names '{next(one for one in names if names.count(one) > 1)}' twice")
    return found
