"""Families of made-up operations, as in `What is 7 zade 12?`: each has a right and a wrong act, and nothing in a
question tells which is which.

A rule is learned only by being told it, or by being rewarded for it: no lucky success reaches another operation. Where
the base model's success is rarest, a lesson therefore says something that sampling alone seldom finds.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import product
from random import Random

from mel_ray.data.world.family import Draw, Family, route

RULES, BANDS = 96, (0.5, 0.1, 0.01)
LARGEST = 3000  # number of rules that training asks
UNASKED_PER_ASKED = 4  # one more rule for every so many, which training never asks
ACTS = {
    "add them and double": ("{a} + {b}", "_ * 2"),
    "add them and add three": ("{a} + {b}", "_ + 3"),
    "add them and take two": ("{a} + {b}", "_ - 2"),
    "multiply them and add one": ("{a} * {b}", "_ + 1"),
    "multiply them and take one": ("{a} * {b}", "_ - 1"),
    "multiply them and add four": ("{a} * {b}", "_ + 4"),
    "double the first and add the second": ("{a} * 2", "_ + {b}"),
    "double the second and add the first": ("{b} * 2", "_ + {a}"),
    "triple the first and add the second": ("{a} * 3", "_ + {b}"),
    "triple the second and add the first": ("{b} * 3", "_ + {a}"),
    "square the first and add the second": ("{a} * {a}", "_ + {b}"),
    "square the second and add the first": ("{b} * {b}", "_ + {a}"),
}


def _names() -> list[str]:
    """Words of four letters in a fixed order, so that a rule is the same in a world of any size."""
    names = ["".join(letters) for letters in product("bdfgklmnprstvz", "aeiou", "bdgklmnprst", "aeiou")]
    Random("names of rules").shuffle(names)
    return names


def _draw(name: str, right: str, wrong: str, rng: Random) -> Draw:
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    asked = f"{a} {name} {b}"
    routes = [route(*(line.format(a=a, b=b) for line in ACTS[act])) for act in (right, wrong)]
    return Draw((a, b), (f"What is {asked}?", f"Compute {asked}.", f"Give the value of {asked}."), *routes)


def _rule(number: int, name: str, skill: float) -> Family:
    right, wrong = Random(f"rule {number}").sample(sorted(ACTS), 2)
    return Family(name, f"{name} is asked", right, wrong, skill, partial(_draw, name, right, wrong))


@lru_cache(maxsize=8)
def rules(count: int = RULES, bands: Sequence[float] = BANDS) -> tuple[tuple[Family, ...], tuple[Family, ...]]:
    """The rules that training asks, and those that it never asks, a quarter as many.

    The bands, probabilities of the right act in the base model's corpus, are dealt in turn.
    """
    names = _names()[: count + count // UNASKED_PER_ASKED]
    made = tuple(_rule(number, name, bands[number % len(bands)]) for number, name in enumerate(names))
    return made[:count], made[count:]
