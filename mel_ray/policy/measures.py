"""Values a rank measures; the type says how the ranks' values become one."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measure:
    """A value; `merged` makes one of it and the other ranks' values."""

    value: float

    def merged(self, others: Sequence["Measure"]) -> "Measure":
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Sum(Measure):
    """A part of a whole: the ranks' values add up."""

    def merged(self, others: Sequence[Measure]) -> "Sum":
        return Sum(sum([self.value, *(other.value for other in others)]))


@dataclass(frozen=True, slots=True)
class Max(Measure):
    """The largest of all ranks' values."""

    def merged(self, others: Sequence[Measure]) -> "Max":
        return Max(max([self.value, *(other.value for other in others)]))


@dataclass(frozen=True, slots=True)
class Same(Measure):
    """Global already: every rank has the same value."""

    def merged(self, others: Sequence[Measure]) -> "Same":
        return self
