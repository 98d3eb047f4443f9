"""Records on disk, without code: a file of arrays and JSON, from which only the named kinds of record can come back.

A pickle would run whatever somebody has put into it. Here a file holds plain values, arrays, and the fields of known
dataclasses and enumerations; anything else in it is an error.
"""

import base64
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from mel_ray.records.experience import ContrastivePair, Draft, DraftState, Experience
from mel_ray.records.ledger import DraftFate, TrajectoryFate
from mel_ray.records.question import Message, Question, Truth
from mel_ray.records.row import Row, RowKind
from mel_ray.records.trajectory import FinishReason, Group, Prompt, Trajectory
from mel_ray.records.verdict import Outcome, Verdict

SAMPLES = (
    ContrastivePair, Draft, DraftFate, DraftState, Experience, FinishReason, Group, Message, Outcome, Prompt, Question,
    Row, RowKind, Trajectory, TrajectoryFate, Truth, Verdict,
)  # fmt: skip
STRUCTURE = "structure"
# What a dataset's columns may hold beyond JSON, as text and back.
TEXTS: dict[str, tuple[type, Any, Any]] = {
    "datetime": (datetime, datetime.isoformat, datetime.fromisoformat),
    "date": (date, date.isoformat, date.fromisoformat),
    "time": (time, time.isoformat, time.fromisoformat),
    "timedelta": (timedelta, lambda value: repr(value.total_seconds()), lambda text: timedelta(seconds=float(text))),
    "decimal": (Decimal, str, Decimal),
    "uuid": (UUID, str, UUID),
    "bytes": (bytes, lambda value: base64.b64encode(value).decode(), lambda text: base64.b64decode(text)),
}


class StoredRecords:
    """Reads and writes files of what was asked, sampled and found out about it, and of the other kinds given."""

    def __init__(self, *others: type) -> None:
        self._kinds = {kind.__name__: kind for kind in (*SAMPLES, *others)}

    def write(self, file: Path, value: Any) -> None:
        """
        Raises:
            TypeError: something in it is of no known kind.
        """
        writer = _Writer(self._kinds)
        structure = np.frombuffer(json.dumps(writer.plain(value)).encode(), np.uint8)
        buffers = {kind: np.concatenate(parts) for kind, parts in writer.arrays.items()}
        with file.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **{STRUCTURE: structure}, **buffers)

    def read(self, file: Path) -> Any:
        """
        Raises:
            ValueError: the file is damaged, or holds something of no known kind.
            OSError: it cannot be read.
        """
        data = file.read_bytes()
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as stored:
                buffers = {name: stored[name] for name in stored.files}
            return _Reader(self._kinds, buffers).value(json.loads(buffers.pop(STRUCTURE).tobytes()))
        except Exception as error:  # a damaged archive raises anything
            raise ValueError(f"{file.name}: {error}") from error


class _Writer:
    """Arrays are put end to end, one buffer per type, because there may be many thousands of them."""

    def __init__(self, kinds: Mapping[str, type]) -> None:
        self._kinds = kinds
        self.arrays: dict[str, list[np.ndarray]] = {}
        self._lengths: dict[str, int] = {}

    def plain(self, value: Any) -> Any:
        if isinstance(value, Enum):
            return {"enum": self._name(value), "value": value.value}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, np.generic):
            return value.item()
        if is_dataclass(value):
            return {"is": self._name(value), "of": {f.name: self.plain(getattr(value, f.name)) for f in fields(value)}}
        if isinstance(value, tuple):
            return {"tuple": self._plain_list(value)}
        if isinstance(value, list):
            return self._plain_list(value)
        if isinstance(value, Mapping):
            return {"map": [[self.plain(key), self.plain(one)] for key, one in value.items()]}
        for name, (kind, text, _) in TEXTS.items():
            if isinstance(value, kind):
                return {"text": name, "value": text(value)}
        raise TypeError(f"a {type(value).__name__} cannot be stored")

    def _plain_list(self, values: Iterable[Any]) -> list[Any]:
        return [self.plain(one) for one in values]

    def _name(self, value: Any) -> str:
        name = type(value).__name__
        if self._kinds.get(name) is not type(value):
            raise TypeError(f"a {name} cannot be stored")
        return name

    def _array(self, array: np.ndarray) -> dict[str, Any]:
        kind = array.dtype.str
        if array.dtype.hasobject:
            raise TypeError("an array of objects cannot be stored")
        start = self._lengths.get(kind, 0)
        self.arrays.setdefault(kind, []).append(array.ravel())
        self._lengths[kind] = start + array.size
        return {"array": kind, "start": start, "shape": list(array.shape)}


class _Reader:
    def __init__(self, kinds: Mapping[str, type], buffers: Mapping[str, np.ndarray]) -> None:
        self._kinds, self._buffers = kinds, buffers

    def value(self, plain: Any) -> Any:
        if isinstance(plain, list):
            return [self.value(one) for one in plain]
        if not isinstance(plain, dict):
            return plain
        match plain:
            case {"enum": str(name), "value": value}:
                return self._kinds[name](value)
            case {"is": str(name), "of": dict(given)}:
                return self._kinds[name](**{key: self.value(one) for key, one in given.items()})
            case {"tuple": list(values)}:
                return tuple(self.value(one) for one in values)
            case {"map": list(pairs)}:
                return {self.value(key): self.value(one) for key, one in pairs}
            case {"text": str(name), "value": str(text)}:
                return TEXTS[name][2](text)
            case {"array": str(kind), "start": int(start), "shape": list(shape)}:
                size = int(np.prod(shape)) if shape else 1
                return self._buffers[kind][start : start + size].reshape(shape).copy()
        raise ValueError(f"an entry of no known kind: {sorted(plain)}")
