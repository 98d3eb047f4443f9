"""Questions and what the policy sampled for them."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import numpy as np

from mel_ray.records.arrays import Floats, TokenIds, frozen

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question `x` rendered for the policy. `token_ids`: [prompt tokens]; `answer` is the ground truth y*.

    Numbers within `tolerance` of the ground truth are correct too.
    """

    question_id: str
    question: str
    answer: str
    token_ids: TokenIds
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", frozen(self.token_ids, np.int32))
        if not len(self.token_ids):
            raise ValueError(f"prompt {self.question_id} has no tokens")


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
    """One sampled completion `y`.

    `token_ids` and `logprobs` are aligned, [completion tokens]; a logprob is that of the sampled token under
    the sampling distribution (after temperature). `weight_version` names the weights that sampled it.
    """

    token_ids: TokenIds
    logprobs: Floats
    text: str
    finish_reason: FinishReason
    seed: int
    weight_version: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", frozen(self.token_ids, np.int32))
        object.__setattr__(self, "logprobs", frozen(self.logprobs, np.float32))
        if len(self.token_ids) != len(self.logprobs):
            raise ValueError(f"{len(self.token_ids)} tokens but {len(self.logprobs)} logprobs")


@dataclass(frozen=True, slots=True)
class Group:
    """The trajectories `Y = {y_1..y_G}` sampled for one prompt."""

    prompt: Prompt
    trajectories: tuple[Trajectory, ...]

    def facts(self) -> "GroupFacts":
        return GroupFacts(
            question_id=self.prompt.question_id,
            prompt_tokens=len(self.prompt.token_ids),
            lengths=tuple(len(t.token_ids) for t in self.trajectories),
            finish_reasons=tuple(t.finish_reason for t in self.trajectories),
            weight_version=self.trajectories[0].weight_version if self.trajectories else -1,
            digests=tuple(blake2b(t.token_ids.tobytes(), digest_size=8).hexdigest() for t in self.trajectories),
        )


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """The small facts about a group that the driver may see: lengths in tokens, never tokens.

    Trajectories of equal `digests` hold the same tokens; empty where nobody asked.
    """

    question_id: str
    prompt_tokens: int
    lengths: tuple[int, ...]
    finish_reasons: tuple[FinishReason, ...]
    weight_version: int
    digests: tuple[str, ...] = ()

    @property
    def completion_tokens(self) -> int:
        return sum(self.lengths)
