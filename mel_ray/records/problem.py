"""Problems in what was asked: path, value, why, remedy; all are collected before anything starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    path: str
    value: Any
    why: str
    remedy: str = ""

    def __str__(self) -> str:
        shown = "" if self.value is None else f"={str(self.value)[:120]}"
        remedy = f" {self.remedy[0].upper()}{self.remedy[1:]}" if self.remedy else ""
        end = "" if self.why.endswith((".", "?")) else "."
        return f"{self.path}{shown}: {self.why}{end}{remedy}{'' if remedy.endswith(('.', '?')) or not remedy else '.'}"


class ConfigError(Exception):
    """The request cannot be carried out; exit code 2."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, problems)))
