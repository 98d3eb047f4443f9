"""What an algorithm is: how rewards become credit, what it needs for that, and what it leaves out.

To add one: a file here with a subclass, one line in `policy/registry.py`, and `algorithm.advantage=<name>` finds it
(docs/algorithms.md has a worked example).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from mel_ray.records.ledger import TrajectoryFate
from mel_ray.records.problem import Problem
from mel_ray.records.row import Credit, Ref, Row
from mel_ray.records.trajectory import Floats

Rewards = Sequence[float | None]  # None: the verifier could not judge it
Groups = Sequence[Sequence[Row]]  # attempts with their rewards, by question
Penalties = Mapping[tuple[Ref | None, int], Floats]  # sample -> KL penalty to go, [trained tokens]; empty: none


class KlOptions(Protocol):
    @property
    def coefficient(self) -> float: ...
    @property
    def where(self) -> str: ...


class RftOptions(Protocol):
    @property
    def weighting(self) -> str: ...
    @property
    def deduplicate(self) -> bool: ...


class DynamicSamplingOptions(Protocol):
    @property
    def enabled(self) -> bool: ...


class Options(Protocol):
    """What an algorithm may read of `algorithm.*`."""

    @property
    def advantage_eps(self) -> float: ...
    @property
    def surrogate(self) -> str: ...
    @property
    def kl(self) -> KlOptions: ...
    @property
    def rft(self) -> RftOptions: ...
    @property
    def dynamic_sampling(self) -> DynamicSamplingOptions: ...


class Algorithm(ABC):
    """Defaults are those of an estimator that leaves nothing out."""

    needs_group = False  # at least two attempts per question
    needs_batch = False  # looks at all questions at once, so a KL penalty joins the return before it is whitened

    def needs_reference(self, options: Options) -> bool:
        """Whether the initial policy is kept, to measure a KL against it."""
        return options.kl.coefficient > 0

    @abstractmethod
    def credit(self, groups: Groups, options: Options, penalties: Penalties) -> list[list[Credit]]:
        """The advantage of every attempt: a number for all of its tokens, or an array [trained tokens].

        `penalties` is given where the KL penalty belongs to the reward or to the return.
        """

    def leave_out(self, group: Sequence[Row], options: Options) -> list[TrajectoryFate | None]:
        """The fate of attempts that the algorithm leaves out of the update; None for all others."""
        return [None for _ in group]

    def averages_questions(self, options: Options) -> bool:
        """Whether the loss is a mean over questions instead of over trajectories."""
        return False

    def problems(self, options: Options) -> Iterable[Problem]:
        """What cannot be combined with it, each with its remedy."""
        return ()


class GroupAlgorithm(Algorithm):
    """An estimator that compares the attempts of one question.

    In the reward, a KL penalty lowers an attempt's reward by its total before the comparison (verl). In the return, it
    lowers each token's advantage by the KL from that token on, after the comparison (OpenRLHF).
    """

    needs_group = True

    @abstractmethod
    def advantages(self, rewards: Rewards, eps: float) -> Floats:
        """One number per attempt, [group]; 0 where the reward is None."""

    def credit(self, groups: Groups, options: Options, penalties: Penalties) -> list[list[Credit]]:
        return [self._of_group(group, options, penalties) for group in groups]

    def _of_group(self, group: Sequence[Row], options: Options, penalties: Penalties) -> list[Credit]:
        rewards: Rewards = [row.reward for row in group]
        if penalties and options.kl.where == "reward":
            rewards = [
                r if r is None else r - total(penalties[row.sample]) for r, row in zip(rewards, group, strict=True)
            ]
        advantages = self.advantages(rewards, options.advantage_eps).tolist()
        if not (penalties and options.kl.where == "return"):
            return advantages
        return [
            0.0 if row.reward is None else (advantage - penalties[row.sample]).astype(np.float32)
            for advantage, row in zip(advantages, group, strict=True)
        ]


def total(penalty: Floats) -> float:
    """The penalty of a whole attempt: what is to go at its first token."""
    return float(penalty[0]) if len(penalty) else 0.0


def judged(rewards: Rewards) -> tuple[np.ndarray, np.ndarray]:
    """Which rewards there are, and their values."""
    is_judged = np.array([reward is not None for reward in rewards], dtype=bool)
    return is_judged, np.array([reward for reward in rewards if reward is not None], dtype=np.float64)


def spread(values: np.ndarray, is_judged: np.ndarray) -> Floats:
    """Values where there was a reward, 0 elsewhere."""
    advantages = np.zeros(len(is_judged), dtype=np.float64)
    advantages[is_judged] = values
    return advantages.astype(np.float32)


def has_contrast(values: np.ndarray) -> bool:
    """Equal rewards must give exactly zero, never rounding noise."""
    return len(values) >= 2 and bool(values.min() < values.max())
