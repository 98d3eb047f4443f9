"""Questions, what the policy sampled for them, and with which seeds.

Arrays are read-only: what travels between pools is shared, so nobody may write to it.
"""

from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mel_ray.records.question import Question

TokenIds = NDArray[np.int32]
Versions = NDArray[np.int32]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


def frozen(values: ArrayLike, dtype: Any) -> NDArray[Any]:
    """A contiguous, read-only, one-dimensional array; a read-only input of the right type is not copied.

    Raises:
        ValueError: the values are not one-dimensional.
    """
    array = np.ascontiguousarray(values, dtype=dtype)
    if array.ndim != 1:
        raise ValueError(f"expected one dimension, got shape {array.shape}")
    if array.flags.writeable:
        array = array.copy() if array is values else array
        array.flags.writeable = False
    return array


def derive_seed(run_seed: int, *parts: str | int) -> int:
    """A seed in [0, 2^31) from the run's seed and what is drawn, e.g. (step, question id, "rollout", index)."""
    text = "\x1f".join(map(str, (run_seed, *parts)))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 33


class FinishReason(StrEnum):
    STOP = "stop"  # the policy ended its turn
    LENGTH = "length"  # the token limit did


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question `x` rendered for the policy. `token_ids`: [prompt tokens]."""

    question: Question
    token_ids: TokenIds

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", frozen(self.token_ids, np.int32))
        if not len(self.token_ids):
            raise ValueError(f"the prompt of question {self.question_id} has no tokens")

    @property
    def question_id(self) -> str:
        return self.question.question_id


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample: one seed per sample, so a result does not depend on what else the engine is doing."""

    seeds: tuple[int, ...]
    temperature: float
    max_tokens: int
    top_p: float = 1.0

    @property
    def count(self) -> int:
        return len(self.seeds)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What follows the prompt: the sampled completion `y`, and in several turns what the environment put between.

    Four aligned arrays, [tokens]. Worked example, a tool's answer `r` between two turns and new weights in the second:

        token_ids   [ a   b   r   c   d ]
        mask        [ 1   1   0   1   1 ]   sampled by the policy, so trained
        logprobs    [-.3 -.9  0  -.1 -.2]   under the sampling distribution (after temperature); NaN: not sampled
        versions    [ 7   7   7   7   8 ]   the weights that sampled the token

    Raises:
        ValueError: the arrays differ in length.
    """

    token_ids: TokenIds
    mask: Mask
    logprobs: Floats
    versions: Versions
    text: str
    finish_reason: FinishReason
    seed: int

    def __post_init__(self) -> None:
        for name, dtype in (("token_ids", np.int32), ("mask", bool), ("logprobs", np.float32), ("versions", np.int32)):
            array = frozen(getattr(self, name), dtype)
            object.__setattr__(self, name, array)
            if len(array) != len(self.token_ids):
                raise ValueError(f"{len(self.token_ids)} tokens but {len(array)} {name}")

    @classmethod
    def of_one_turn(
        cls, token_ids: Any, logprobs: Any, text: str, finish_reason: FinishReason, seed: int, version: ArrayLike
    ) -> "Trajectory":
        """The simplest case: every token sampled by the policy. `version` is one for all tokens, or one for each."""
        count = len(token_ids)
        mask, versions = np.ones(count, dtype=bool), np.full(count, version)
        return cls(token_ids, mask, logprobs, versions, text, finish_reason, seed)

    @property
    def weight_version(self) -> int:
        """The newest weights that sampled any of it; -1 of nothing."""
        return int(self.versions.max()) if len(self.versions) else -1


@dataclass(frozen=True, slots=True)
class Group:
    """The trajectories `Y = {y_1..y_G}` sampled for one prompt."""

    prompt: Prompt
    trajectories: tuple[Trajectory, ...]
