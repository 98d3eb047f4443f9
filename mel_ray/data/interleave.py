"""Several sources in one order of questions: the share of each is exact, and the position alone restores it all.

Which source the n-th question comes from is a function of n and the weights. Which of its questions that is depends on
how many were taken from this source before. So the order does not depend on how many are taken at a time.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from math import floor, gcd, lcm
from random import Random

from mel_ray.config.schema import Config, TrainSourceConfig
from mel_ray.data.prompts import PromptStream
from mel_ray.records.ports import Data
from mel_ray.records.trajectory import Prompt


class Turns:
    """Whose turn it is: R. Tijdeman, "The chairman assignment problem", Discrete Mathematics 32 (1980).

    After n turns, each of k sources has had n times its share, to at most 1 - 1/(2k-2): less than one question. A
    stretch of turns is therefore exact to less than two questions, with two sources to less than one. After as many
    turns as the whole-numbered weights add up to, all counts are exact and the turns repeat.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        exact = [Fraction(str(weight)) for weight in weights]
        whole = [int(one * lcm(*(other.denominator for other in exact))) for one in exact]
        self.weights = [one // gcd(*whole) for one in whole]
        self.period = sum(self.weights)
        self._most_off = Fraction(2 * len(weights) - 3, 2 * len(weights) - 2) if len(weights) > 1 else Fraction(0)
        self.position = 0
        self.counts = [0] * len(weights)  # turns that each has had

    def go_to(self, position: int) -> None:
        periods, rest = divmod(position, self.period)
        self.position, self.counts = 0, [0] * len(self.weights)
        for _ in range(rest):
            self.take()
        self.position = position
        self.counts = [count + periods * weight for count, weight in zip(self.counts, self.weights, strict=True)]

    def take(self) -> int:
        """The next turn's source: of those that may have it, the one that must have a turn soonest."""
        self.position += 1
        index = min(filter(self._may, range(len(self.weights))), key=self._latest)
        self.counts[index] += 1
        return index

    def _may(self, index: int) -> bool:
        """Whether the source is not too far ahead after this turn."""
        earliest = (self.counts[index] + 1 - self._most_off) * self.period
        return earliest <= self.position * self.weights[index]

    def _latest(self, index: int) -> Fraction:
        """When the source would be too far behind without a turn."""
        return (self.counts[index] + self._most_off) / self.weights[index]

    def most_in(self, turns: int, index: int) -> int:
        """The most that a source can have in a stretch of this many turns."""
        expected = Fraction(turns * self.weights[index], self.period)
        return int(expected) if turns % self.period == 0 else floor(expected + 2 * self._most_off)


class SpacedOrder:
    """Epoch after epoch of shuffled indices, in which any `spacing` in a row differ, also where two epochs meet."""

    def __init__(self, count: int, seed: str, spacing: int) -> None:
        """
        Raises:
            ValueError: there is nothing to order.
        """
        if count < 1:
            raise ValueError("an order needs at least one question")
        self._count, self._seed, self._spacing = count, seed, min(count, max(1, spacing))
        self._start()

    def _start(self) -> None:
        self._epoch, self._order = 0, self._shuffled(list(range(self._count)), 0, [0] * self._count)

    def at(self, position: int) -> int:
        epoch, offset = divmod(position, self._count)
        if epoch < self._epoch:
            self._start()
        while self._epoch < epoch:
            self._epoch += 1
            free = self._count - self._spacing
            earliest = [max(0, before - free) for before in range(self._count)]
            self._order = self._shuffled(self._order, self._epoch, earliest)
        return self._order[offset]

    def _shuffled(self, before: list[int], epoch: int, earliest: list[int]) -> list[int]:
        """Each offset takes one at random of those that may stand there; `earliest` ascends along `before`."""
        rng, open_to, order, known = Random(f"{self._seed}:{epoch}"), [], [], 0
        for offset in range(len(before)):
            while known < len(before) and earliest[known] <= offset:
                open_to.append(before[known])
                known += 1
            chosen = rng.randrange(len(open_to))
            open_to[chosen], open_to[-1] = open_to[-1], open_to[chosen]
            order.append(open_to.pop())
        return order


class MixedStream:
    """Prompts of several sources in turns; `most` questions make up at most one step, and in it nothing repeats (unless
    a source's part is more than all of its questions)."""

    def __init__(
        self, prompts: Sequence[Sequence[Prompt]], sources: Sequence[TrainSourceConfig], seed: int, most: int,
        position: int = 0,
    ) -> None:  # fmt: skip
        self._prompts, self._turns = prompts, Turns([source.weight for source in sources])
        self._orders = [
            SpacedOrder(len(own), f"order:{seed}:{source.name}", self._turns.most_in(most, index))
            for index, (own, source) in enumerate(zip(prompts, sources, strict=True))
        ]
        self._turns.go_to(position)

    @property
    def position(self) -> int:
        return self._turns.position

    def __len__(self) -> int:
        return sum(map(len, self._prompts))

    def take(self, count: int) -> list[Prompt]:
        return [self._next() for _ in range(count)]

    def _next(self) -> Prompt:
        index = self._turns.take()
        return self._prompts[index][self._orders[index].at(self._turns.counts[index] - 1)]


def stream_of(prompts: Sequence[Prompt], config: Config, position: int = 0) -> Data:
    """The order of a run from a position on. A single source is shuffled by epoch; several take turns."""
    sources = config.data.sources
    if len(sources) == 1:
        return PromptStream(prompts, config.run.seed, position)
    own = [[prompt for prompt in prompts if prompt.question.source == source.name] for source in sources]
    return MixedStream(own, sources, config.run.seed, most_asked(config), position)


def most_asked(config: Config) -> int:
    """The most questions that are under way for one step."""
    rollout, dynamic = config.rollout, config.algorithm.dynamic_sampling
    count = rollout.prompts_per_step
    if rollout.partial:
        count += math.ceil(count * rollout.oversample)
    return max(count, int(count * dynamic.max_factor)) if dynamic.enabled else count
