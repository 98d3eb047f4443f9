"""Which correct and incorrect trajectory of a mixed group are contrasted (MEL 3.2)."""

from collections.abc import Callable, Sequence
from random import Random

import numpy as np

from mel_ray.records.experience import ContrastivePair
from mel_ray.records.trajectory import Trajectory

Pairs = list[ContrastivePair]
PairChoice = Callable[[Pairs, Sequence[Trajectory]], Pairs]  # shuffled pairs in, the preferred ones first


def common_prefix(first: Trajectory, second: Trajectory) -> int:
    """Number of tokens both begin with."""
    length = min(len(first.token_ids), len(second.token_ids))
    differs = np.flatnonzero(first.token_ids[:length] != second.token_ids[:length])
    return int(differs[0]) if len(differs) else length


def mean_logprob(trajectory: Trajectory) -> float:
    """Over the tokens the policy sampled."""
    sampled = trajectory.logprobs[trajectory.mask]
    return float(sampled.mean()) if len(sampled) else 0.0


def _both(pair: ContrastivePair, trajectories: Sequence[Trajectory]) -> tuple[Trajectory, Trajectory]:
    """y+ and y- of a mixed group."""
    assert pair.correct is not None
    return trajectories[pair.correct], trajectories[pair.incorrect]


def random(pairs: Pairs, trajectories: Sequence[Trajectory]) -> Pairs:
    """As they were shuffled."""
    return pairs


def shortest_correct_longest_common_prefix(pairs: Pairs, trajectories: Sequence[Trajectory]) -> Pairs:
    """The shortest correct trajectories first; of their partners, those that share the longest beginning with them, so
    that the bifurcation is as visible as can be."""

    def order(pair: ContrastivePair) -> tuple[int, int]:
        good, bad = _both(pair, trajectories)
        return len(good.token_ids), -common_prefix(good, bad)

    return sorted(pairs, key=order)


def hardest(pairs: Pairs, trajectories: Sequence[Trajectory]) -> Pairs:
    """The mistakes the policy finds most likely (mean logprob per token), against the correct trajectories it
    finds least likely."""

    def order(pair: ContrastivePair) -> tuple[float, float]:
        good, bad = _both(pair, trajectories)
        return -mean_logprob(bad), mean_logprob(good)

    return sorted(pairs, key=order)


def select_pairs(
    trajectories: Sequence[Trajectory],
    correct: Sequence[int],
    incorrect: Sequence[int],
    count: int,
    seed: int,
    choice: PairChoice = random,
) -> tuple[ContrastivePair, ...]:
    """Up to `count` pairs of P_x = Y+ x Y- without repetition. Ties fall by the seed.

    Of an all-wrong group, incorrect trajectories alone, by the seed; of an all-right one none.
    """
    if not correct:
        return tuple(ContrastivePair(None, bad) for bad in Random(seed).sample(incorrect, min(count, len(incorrect))))
    pairs = [ContrastivePair(good, bad) for good in correct for bad in incorrect]
    Random(seed).shuffle(pairs)
    return tuple(choice(pairs, trajectories)[:count])
