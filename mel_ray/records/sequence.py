"""What the policy trains on: one sequence, every completion token carrying its own two weights.

Worked example, prompt of 3 tokens and completion of 2, in a batch of 4 trajectories (MEL Eq. 10):

    token_ids         [p p p a b]
    completion_start  3
    pg_weight             [1/8 1/8]    1/(4 trajectories * 2 tokens)
    nll_weight            [0   0  ]    a meta-experience has these the other way round
    advantages            [1.2 1.2]
    sampled_logprobs      [-.3 -.9]
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from mel_ray.records.arrays import Floats, TokenIds, frozen


@dataclass(frozen=True, slots=True)
class TrainSequence:
    """`token_ids`: [tokens]; the other arrays: [completion tokens], those from `completion_start` on."""

    token_ids: TokenIds
    completion_start: int
    pg_weight: Floats
    nll_weight: Floats
    advantages: Floats
    sampled_logprobs: Floats
    kl_scale: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", frozen(self.token_ids, np.int32))
        completion = len(self.token_ids) - self.completion_start
        if self.completion_start < 1 or completion < 1:
            raise ValueError(f"prompt of {self.completion_start} and completion of {completion} tokens")
        for name in ("pg_weight", "nll_weight", "advantages", "sampled_logprobs"):
            array = frozen(getattr(self, name), np.float32)
            if len(array) != completion:
                raise ValueError(f"{name} has {len(array)} entries for {completion} completion tokens")
            object.__setattr__(self, name, array)


class SequenceKind(StrEnum):
    TRAJECTORY = "trajectory"
    EXPERIENCE = "experience"  # M*
    REPLAY = "replay"  # a replay that proved M*, answered without it


@dataclass(frozen=True, slots=True)
class SequenceSpec:
    """A sequence as the driver plans it: where its tokens lie, how long it is, and its scalar weights.

    `ref` is opaque to the driver; it leads to a Group (`index` is the trajectory; of a REPLAY, the replay) or to
    a tuple of Drafts (`index` is the draft). `context_ref`, if given, leads to a Group whose prompt replaces the
    context in which the tokens were sampled. `pg_weight` and `nll_weight` hold for each completion token,
    `nll_weight` within `span` only. A token's advantage is `advantage - kl_scale * K_t`, K_t being its KL to go
    (`records/update.py`).
    """

    kind: SequenceKind
    ref: Any
    index: int
    prompt_tokens: int
    completion_tokens: int
    advantage: float = 0.0
    pg_weight: float = 0.0
    nll_weight: float = 0.0
    kl_scale: float = 0.0
    context_ref: Any = None
    span: tuple[int, int] | None = None

    @property
    def is_experience(self) -> bool:
        return self.kind is not SequenceKind.TRAJECTORY

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens
