"""Which correct and incorrect trajectory of a mixed group are contrasted (MEL 3.2)."""

from random import Random
from typing import Literal

import numpy as np

from mel_ray.records.experience import ContrastivePair
from mel_ray.records.trajectory import Group, Trajectory
from mel_ray.records.verdict import GroupVerdict

PairChoice = Literal["random", "shortest_correct_longest_common_prefix", "hardest"]


def common_prefix(first: Trajectory, second: Trajectory) -> int:
    """Number of tokens both begin with."""
    length = min(len(first.token_ids), len(second.token_ids))
    differs = np.flatnonzero(first.token_ids[:length] != second.token_ids[:length])
    return int(differs[0]) if len(differs) else length


def mean_logprob(trajectory: Trajectory) -> float:
    return float(trajectory.logprobs.mean()) if len(trajectory.logprobs) else 0.0


def select_pairs(
    group: Group, verdict: GroupVerdict, count: int, seed: int, choice: PairChoice = "random"
) -> tuple[ContrastivePair, ...]:
    """Up to `count` pairs of P_x = Y+ x Y- without repetition; none unless the group is mixed.

    - random: drawn with the seed
    - shortest_correct_longest_common_prefix: the shortest correct trajectories first; of their partners, those that
      share the longest beginning with them, so that the bifurcation is as visible as can be
    - hardest: the mistakes the policy finds most likely (mean logprob per token), against the correct trajectories it
      finds least likely

    Ties fall by the seed. Trajectories the verifier could not judge take part on neither side.
    """
    pairs = [ContrastivePair(good, bad) for good in verdict.correct for bad in verdict.incorrect]
    Random(seed).shuffle(pairs)
    trajectories = group.trajectories
    match choice:
        case "shortest_correct_longest_common_prefix":
            pairs.sort(
                key=lambda pair: (
                    len(trajectories[pair.correct].token_ids),
                    -common_prefix(trajectories[pair.correct], trajectories[pair.incorrect]),
                )
            )
        case "hardest":
            pairs.sort(
                key=lambda pair: (
                    -mean_logprob(trajectories[pair.incorrect]),
                    mean_logprob(trajectories[pair.correct]),
                )
            )
    return tuple(pairs[:count])
