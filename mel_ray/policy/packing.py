"""The packing plan: which rank computes which sequences in which microbatch. A pure function.

Invariants (the tests assert this list):
1. every sequence is planned exactly once; fewer than `ranks` fillers are added, and only where every
   microbatch holds a single sequence and their number does not divide by the ranks;
2. every rank has the same number of microbatches, none of them empty (ZeRO-3 runs all ranks in step);
3. what a microbatch holds stays within the token budget, unless it is a single sequence: rows * longest
   where sequences are padded, the sum of lengths where they are packed;
4. microbatch k costs nearly the same on every rank: microbatches are dealt out from the most expensive on.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PackingPlan:
    """`microbatches[rank][k]` lists indices of sequences; `fillers` marks those planned a second time, which
    must carry zero weight, as (rank, k)."""

    microbatches: tuple[tuple[tuple[int, ...], ...], ...]
    fillers: frozenset[tuple[int, int]]
    padded_tokens: int

    @property
    def count(self) -> int:
        return len(self.microbatches[0])


def pack(lengths: Sequence[int], ranks: int, token_budget: int, is_packed: bool = False) -> PackingPlan:
    """Pack sequences of the given lengths (tokens) for `ranks` ranks, longest first.

    Neighbours in length share a microbatch, so rows are padded only to a similar length; packed sequences need no
    padding at all, and go where they still fit.

    Raises:
        ValueError: there are no sequences.
    """
    if not lengths:
        raise ValueError("nothing to pack")

    def size(members: Sequence[int]) -> int:
        return sum(lengths[i] for i in members) if is_packed else len(members) * lengths[members[0]]

    bins: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        open_bins = bins if is_packed else bins[-1:]
        fitting = next((one for one in open_bins if size([*one, index]) <= token_budget), None)
        if fitting is not None:
            fitting.append(index)
        else:
            bins.append([index])
    while len(bins) % ranks:
        widest = max(bins, key=lambda members: (len(members) > 1, size(members)))
        if len(widest) == 1:
            break
        position, half = bins.index(widest), (len(widest) + 1) // 2
        bins[position : position + 1] = [widest[:half], widest[half:]]
    missing = -len(bins) % ranks
    shortest = min(range(len(lengths)), key=lambda i: lengths[i])
    bins.sort(key=lambda members: -size(members))
    filled = len(bins)
    bins += [[shortest] for _ in range(missing)]
    plan = tuple(tuple(tuple(members) for members in bins[rank::ranks]) for rank in range(ranks))
    fillers = frozenset((position % ranks, position // ranks) for position in range(filled, len(bins)))
    return PackingPlan(plan, fillers, sum(map(size, bins)))
