"""The vocabulary of the embedded world: a family of small problems that share one latent pitfall."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

_EQUATION = re.compile(r"(-?\d+) ([-+*/]) (-?\d+)")
_OPERATIONS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b,
}


@dataclass(frozen=True, slots=True)
class Route:
    """One way of working a problem: the lines written down, and the integer they end in."""

    lines: tuple[str, ...]
    answer: int


def route(*lines: str) -> Route:
    """Work the lines from first to last; `_` stands for the value reached so far.

    `"3 * 4"` becomes `"3 * 4 = 12"`; any other line is a remark and leaves the value unchanged,
    unless it ends in `= n`, which sets it.
    """
    value, written = 0, []
    for line in lines:
        line = line.replace("_", str(value))
        if match := _EQUATION.fullmatch(line):
            value = _OPERATIONS[match[2]](int(match[1]), int(match[3]))
            line = f"{line} = {value}"
        elif match := re.search(r"= (-?\d+)$", line):
            value = int(match[1])
        written.append(line)
    return Route(tuple(written), value)


@dataclass(frozen=True, slots=True)
class Draw:
    """One concrete problem: three phrasings of it, the right route and the route of the pitfall."""

    key: tuple[int, ...]
    phrasings: tuple[str, str, str]
    right: Route
    wrong: Route


@dataclass(frozen=True, slots=True)
class Family:
    """`If {condition}, then {right}` holds; the pitfall is `then {wrong}`.

    `skill` is the probability with which the pre-training corpus takes the right route, so that the
    base model is a mixture of right and wrong procedures, as a real base model is.
    """

    name: str
    condition: str
    right: str
    wrong: str
    skill: float
    draw: Callable[[Random], Draw]

    def rule(self, is_right: bool) -> str:
        return f"If {self.condition}, then {self.right if is_right else self.wrong}."


NAMES = ("Ada", "Bo", "Cem", "Dina", "Eli", "Fay", "Gus", "Hana")
GOODS = ("plums", "shells", "stamps", "beads", "maps", "bolts")
