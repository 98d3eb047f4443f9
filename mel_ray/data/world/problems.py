"""Problems of the embedded world, and the split that keeps held-out ones out of everything else.

A problem is identified by its family and its numbers. One in six is held out by a hash of that identity,
whatever its phrasing: such a problem appears neither among the training questions nor in the
pre-training corpus.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Literal

from mel_ray.data.world import arithmetic, counting, stories
from mel_ray.data.world.family import Family, Route

FAMILIES: tuple[Family, ...] = arithmetic.FAMILIES + counting.FAMILIES + stories.FAMILIES
Split = Literal["train", "heldout"]
_HELDOUT_ONE_IN = 6


@dataclass(frozen=True, slots=True)
class Problem:
    family: Family
    key: tuple[int, ...]
    question: str
    right: Route
    wrong: Route

    @property
    def answer(self) -> str:
        return str(self.right.answer)

    @property
    def solution(self) -> str:
        """The right route, as the base model writes it."""
        return written(self.right.lines, self.answer)


def written(lines: Sequence[str], answer: object) -> str:
    """Numbered steps and a boxed answer."""
    steps = [f"Step {number}: {line}." for number, line in enumerate(lines, 1)]
    return "\n".join([*steps, f"Answer: \\boxed{{{answer}}}"])


def split_of(family: Family, key: tuple[int, ...]) -> Split:
    digest = blake2b(f"{family.name}:{key}".encode(), digest_size=4).digest()
    return "heldout" if int.from_bytes(digest, "big") % _HELDOUT_ONE_IN == 0 else "train"


def sample(rng: Random, split: Split, family: Family, phrasings: tuple[int, ...] = (0, 1, 2)) -> Problem:
    """Draw one problem of the split whose two routes end in different answers."""
    while True:
        draw = family.draw(rng)
        if draw.right.answer != draw.wrong.answer and split_of(family, draw.key) == split:
            break
    return Problem(family, draw.key, draw.phrasings[rng.choice(phrasings)], draw.right, draw.wrong)


def questions(
    split: Split,
    count: int,
    seed: int,
    phrasings: tuple[int, ...] = (0, 1),
    families: Sequence[Family] = FAMILIES,
) -> list[Problem]:
    """`count` problems with distinct questions, the families in turn; fewer where the world has no more."""
    rng = Random(f"{split}:{seed}")
    found: dict[str, Problem] = {}
    attempts = 0
    while len(found) < count and attempts < 50 * count:
        problem = sample(rng, split, families[attempts % len(families)], phrasings)
        found.setdefault(problem.question, problem)
        attempts += 1
    return list(found.values())
