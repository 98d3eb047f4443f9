"""Which correct and incorrect trajectory of a mixed group are contrasted (MEL 3.2)."""

from random import Random

from mel_ray.records.experience import ContrastivePair
from mel_ray.records.verdict import GroupVerdict


def select_pairs(verdict: GroupVerdict, count: int, seed: int) -> tuple[ContrastivePair, ...]:
    """Draw up to `count` pairs of P_x = Y+ x Y- without replacement; none unless the group is mixed.

    Trajectories the verifier could not judge take part on neither side.
    """
    everything = [ContrastivePair(good, bad) for good in verdict.correct for bad in verdict.incorrect]
    return tuple(Random(seed).sample(everything, min(count, len(everything))))
