"""Problems in what was asked: path, value, why, remedy; all are collected before anything starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun, as in "1 question" and "2 questions"."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


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
