"""What the policy pool is asked to do with a batch, and one sequence as a rank trains it.

The ranks never see an algorithm's name: an algorithm is the weights and the credit its rows carry, and these settings.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mel_ray.records.row import Row
from mel_ray.records.trajectory import Floats, Mask, TokenIds, Versions, frozen

Surrogate = Literal["clipped", "sequence_clipped", "cispo", "logprob"]
Denominator = Literal["proximal", "sampled"]
KlEstimator = Literal["k1", "k2", "k3"]
GuidedCorrection = Literal["none", "ratio", "capped"]
Shards = tuple[tuple[tuple[Row, ...], ...], ...]  # [rank][microbatch][sequence]


TOKEN_FIELDS = {
    "pg_weight": np.float32,
    "nll_weight": np.float32,
    "advantages": np.float32,
    "sampled_logprobs": np.float32,
    "old_logprobs": np.float32,
    "reference_logprobs": np.float32,
    "versions": np.int32,
    "guided": bool,
}


@dataclass(frozen=True, slots=True)
class LossSettings:
    """The policy term's surrogate and its options; None and 0 switch one off (docs/algorithms.md).

    `denominator` of the ratio: the policy before the update, or the logprobs the tokens were sampled with.
    `guided_correction`: how tokens sampled with a meta-experience in the prompt are corrected to the bare policy.
    """

    surrogate: Surrogate = "clipped"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    log_ratio_clamp: float | None = None
    denominator: Denominator = "proximal"
    importance_cap: float | None = None
    importance_floor: float | None = None  # needs a cap
    importance_level: Literal["token", "sequence"] = "token"
    importance_mode: Literal["truncate", "mask"] = "truncate"
    kl_estimator: KlEstimator = "k3"
    kl_coefficient: float = 0.0  # of the KL term in the loss
    needs_reference: bool = False  # a KL penalty somewhere: measure it
    entropy_coefficient: float = 0.0
    guided_correction: GuidedCorrection = "none"
    guided_cap: float = 2.0


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How to train on a batch's optimizer steps: all of them, `epochs` times over.

    `slow_rate`: afterwards interpolate with the slow weights (Reptile); None: do not. `version`: of the weights before
    the update, where samples may be older; None where they cannot.
    """

    lr: float
    loss: LossSettings = LossSettings()
    epochs: int = 1
    slow_rate: float | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True)
class OptimizerStep:
    """One optimizer step: on which rows, with which optimizer state.

    `experience_from`: microbatches from this one on hold lessons only and those before it none, so that the two
    gradients can be told apart; None where they are mixed. `balance`: scale the lessons' gradient to this fraction of
    the policy gradient's norm; needs `experience_from`. `lr_factor` multiplies the learning rate. `is_compared`:
    measure this step's gradient against that of the step of the other kind.
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

    def of_rank(self, rank: int) -> "OptimizerStep":
        """What one rank needs to know: its own shard alone."""
        return replace(self, shards=(self.shards[rank],))


@dataclass(frozen=True, slots=True)
class TrainSequence:
    """One row with its tokens. `token_ids`, `mask`: [tokens]; the other arrays: [trained tokens], in the mask's order.

    Worked example, a prompt of 3 tokens and a completion of 2 in a batch of 4 trajectories (MEL Eq. 10):

        token_ids         [p p p a b]
        mask              [0 0 0 1 1]
        pg_weight               [1/8 1/8]    1/(4 trajectories * 2 tokens)
        nll_weight              [0   0  ]    a lesson has these the other way round
        advantages              [1.2 1.2]
        sampled_logprobs        [-.3 -.9]
        versions                [7   7  ]    of the weights that sampled the token

    `old_logprobs` None: the current ones, detached. `reference_logprobs` None: nothing is measured against a reference.
    `versions` None: unknown; every token counts as sampled by the policy that trains. `guided`: sampled with a
    meta-experience in the prompt, which the context lacks; None: none is.

    Raises:
        ValueError: the arrays do not fit the mask, or the mask trains the first token, which nothing predicts.
    """

    token_ids: TokenIds
    mask: Mask
    pg_weight: Floats
    nll_weight: Floats
    advantages: Floats
    sampled_logprobs: Floats
    old_logprobs: Floats | None = None
    reference_logprobs: Floats | None = None
    versions: Versions | None = None
    guided: Mask | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", frozen(self.token_ids, np.int32))
        object.__setattr__(self, "mask", frozen(self.mask, bool))
        if len(self.mask) != len(self.token_ids) or len(self.mask) < 2 or self.mask[0]:
            raise ValueError(f"a mask of {len(self.mask)} does not fit {len(self.token_ids)} tokens")
        trained = int(self.mask.sum())
        for name, dtype in TOKEN_FIELDS.items():
            if getattr(self, name) is None:
                continue
            array = frozen(getattr(self, name), dtype)
            if len(array) != trained:
                raise ValueError(f"{name} has {len(array)} entries for {trained} trained tokens")
            object.__setattr__(self, name, array)
