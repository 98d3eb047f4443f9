"""Files of measured pass rates: one JSON object a line, written as they come, read to keep a band of questions."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mel_ray.config.schema import TrainSourceConfig
from mel_ray.data.formats import whole_number
from mel_ray.records.evaluation import PassRate
from mel_ray.records.problem import ConfigError, Problem, counted
from mel_ray.records.question import Question


@dataclass(frozen=True, slots=True)
class Measured:
    """What pass rates depend on; `settings` is a digest of everything else: weights, prompts, verification."""

    model: str
    samples: int
    temperature: float
    max_tokens: int
    settings: str


class PassRateFile:
    """Knows what has been measured already, and appends what is new."""

    def __init__(self, file: Path, measured: Measured, overwrite: bool = False) -> None:
        """
        Raises:
            ConfigError: the file holds something else, was measured in another way, or cannot be written.
        """
        self.path, self._measured = file, measured
        self.known: dict[str, PassRate] = {}
        try:
            text = "" if overwrite or not file.exists() else file.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]  # a line that was cut off is measured again
            for line in _lines(whole, file):
                self._require_same(line)
                rate = PassRate(**{field.name: line[field.name] for field in fields(PassRate)})
                self.known[rate.question_id] = rate
            file.parent.mkdir(parents=True, exist_ok=True)
            if whole != text or not text:
                file.write_text(whole, encoding="utf-8")
        except (KeyError, TypeError, ValueError) as error:
            why = f"it is not a file of pass rates ({type(error).__name__}: {error})"
            raise ConfigError([Problem("--output", file, why, "name another, or give --overwrite")]) from error
        except OSError as error:
            raise ConfigError([Problem("--output", file, f"it cannot be used: {error.strerror}")]) from error

    def _require_same(self, line: dict[str, Any]) -> None:
        for name, mine in asdict(self._measured).items():
            if line[name] != mine:
                how = (
                    "with another state of the model, or other prompts or rewards"
                    if name == "settings"
                    else f"with {name} {line[name]}, and this is {name} {mine}"
                )
                remedy = "name another file, or give --overwrite to measure all again"
                raise ConfigError([Problem("--output", self.path, f"it was measured {how}", remedy)])

    def add(self, rate: PassRate) -> None:
        line = asdict(rate) | {"pass_rate": rate.pass_rate} | asdict(self._measured)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.known[rate.question_id] = rate


def _lines(text: str, file: Path) -> Iterator[dict[str, Any]]:
    """
    Raises:
        ValueError: a line is not a JSON object; the message names it.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line, parse_int=whole_number)
        except ValueError as error:
            raise ValueError(f"line {number} of {file.name} is not JSON: {error}") from error
        if not isinstance(found, dict):
            raise ValueError(f"line {number} of {file.name} is not a JSON object")
        yield found


def read_pass_rates(file: Path) -> dict[str, float]:
    """Question id -> pass rate; of two measurements of a question the later one counts.

    Raises:
        ValueError, OSError: the file is damaged or missing.
    """
    rates = {}
    for number, line in enumerate(_lines(file.read_text(encoding="utf-8-sig"), file), 1):
        rate = line.get("pass_rate")
        if not isinstance(line.get("question_id"), str) or isinstance(rate, bool) or not isinstance(rate, int | float):
            raise ValueError(f"entry {number} of {file.name} lacks question_id or pass_rate")
        if not 0 <= rate <= 1:
            raise ValueError(f"entry {number} of {file.name} has the pass rate {rate}, which is not in [0, 1]")
        rates[line["question_id"]] = float(rate)
    return rates


@dataclass(frozen=True, slots=True)
class Band:
    """The questions within a band of pass rates, and how many were outside or not measured."""

    questions: tuple[Question, ...]
    outside: int = 0
    unmeasured: int = 0


def within_band(questions: Sequence[Question], source: TrainSourceConfig, key: str) -> Band:
    """The questions that `pass_rate` keeps, both bounds included; all of them where there is no band.

    Raises:
        ConfigError: the file of pass rates is missing or damaged, or no question is left.
    """
    if source.pass_rate is None or source.pass_rate_file is None:
        return Band(tuple(questions))
    name, (low, high) = source.pass_rate_file, source.pass_rate
    try:
        rates = read_pass_rates(Path(name).expanduser())
    except OSError as error:
        why = f"it cannot be read: {error.strerror}"
        raise ConfigError([Problem(f"{key}.pass_rate_file", name, why, "`mel pass-rate` writes such files")]) from error
    except ValueError as error:
        remedy = "run `mel pass-rate` again to complete it, or give another file"
        raise ConfigError([Problem(f"{key}.pass_rate_file", name, str(error), remedy)]) from error
    measured = [question for question in questions if question.question_id in rates]
    kept = tuple(question for question in measured if low <= rates[question.question_id] <= high)
    outside, unmeasured = len(measured) - len(kept), len(questions) - len(measured)
    if not kept:
        why = f"of {counted(len(questions), 'question')} none is left: {outside} outside, {unmeasured} not measured"
        remedy = "widen it" if measured else f"measure these questions with `mel pass-rate`; {name} is about others"
        raise ConfigError([Problem(f"{key}.pass_rate", list(source.pass_rate), why, remedy)])
    return Band(kept, outside, unmeasured)
