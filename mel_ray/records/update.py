"""What the policy pool is asked to do with a batch: its optimizer steps, and the knobs of the loss.

The ranks never see an algorithm's name: an algorithm is the weights its sequences carry and these settings.
"""

from dataclasses import dataclass, replace
from typing import Literal

from mel_ray.records.arrays import Floats
from mel_ray.records.sequence import SequenceSpec

Surrogate = Literal["clipped", "sequence_clipped", "cispo", "logprob"]
KlEstimator = Literal["k1", "k2", "k3"]
Shards = tuple[tuple[tuple[SequenceSpec, ...], ...], ...]  # [rank][microbatch][sequence]


@dataclass(frozen=True, slots=True)
class LossSettings:
    """The policy term's surrogate and its options; None and 0 switch one off (docs/algorithms.md).

    `kl_in_reward` is only a claim that advantages carry a KL penalty: the ranks then need reference logprobs.
    """

    surrogate: Surrogate = "clipped"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    log_ratio_clamp: float | None = None
    importance_cap: float | None = None
    importance_level: Literal["token", "sequence"] = "token"
    importance_mode: Literal["truncate", "mask"] = "truncate"
    kl_estimator: KlEstimator = "k3"
    kl_in_loss: float = 0.0
    kl_in_reward: float = 0.0
    entropy_coefficient: float = 0.0

    @property
    def needs_reference(self) -> bool:
        return bool(self.kl_in_loss or self.kl_in_reward)


@dataclass(frozen=True, slots=True)
class OptimizerStep:
    """One optimizer step: on which sequences, with which optimizer state.

    `experience_from`: microbatches from this one on hold meta-experience sequences only and those before it none, so
    that the two gradients can be told apart; None where they are mixed. `balance`: scale the meta-experience gradient
    to this fraction of the policy gradient's norm; needs `experience_from`. `lr_factor` multiplies the learning rate.
    `is_compared`: measure this step's gradient against that of the other kind of step beside it.
    """

    shards: Shards
    experience_from: int | None = None
    balance: float | None = None
    optimizer: Literal["policy", "experience"] = "policy"
    lr_factor: float = 1.0
    is_compared: bool = False

    def __post_init__(self) -> None:
        if self.balance is not None and self.experience_from is None:
            raise ValueError("gradients of mixed microbatches cannot be balanced")


@dataclass(frozen=True, slots=True)
class Update:
    """All optimizer steps of a batch, `epochs` times over; then, with a `slow_rate`, the Reptile interpolation."""

    steps: tuple[OptimizerStep, ...]
    lr: float
    loss: LossSettings
    epochs: int = 1
    slow_rate: float | None = None

    def of_rank(self, rank: int) -> "Update":
        """What one rank needs to know: its own shards alone."""
        own = tuple(replace(step, shards=(step.shards[rank],)) for step in self.steps)
        return replace(self, steps=own)


@dataclass(frozen=True, slots=True)
class RankSums:
    """What one rank saw in one optimizer step: `sums` (names end in `_sum`, `_max`, or are counts and global
    norms), and the log ratios of up to a few thousand policy tokens."""

    sums: dict[str, float]
    log_ratios: Floats


@dataclass(frozen=True, slots=True)
class KlFacts:
    """KL of one trajectory to the reference, under the weights that sampled it.

    With k_t the estimate at token t and K_t = sum of k_s over s >= t: `total` is K at the first token, `to_go_sum` and
    `to_go_square_sum` are sums of K_t and K_t^2 over the tokens, from which a batch's mean and variance follow.
    """

    total: float
    to_go_sum: float
    to_go_square_sum: float
