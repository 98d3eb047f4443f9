"""Supervised fine-tuning: the dataset's solutions in place of sampled trajectories (`algorithm.samples=dataset`)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mel_ray.data.chat import ChatTokenizer
from mel_ray.records.ports import ObjectStore, Turn
from mel_ray.records.row import Row, rows_of_group
from mel_ray.records.trajectory import FinishReason, Group, Prompt, Sampling, Trajectory
from mel_ray.records.verdict import Outcome, Verdict

NEVER_STALE = int(np.iinfo(np.int32).max)  # no weights sampled it


def demonstration(prompt: Prompt, tokenizer: ChatTokenizer, max_tokens: int) -> Trajectory:
    """The question's solution and the token that ends an assistant's turn, as if sampled; its logprobs are NaN, since
    nobody knows them.

    One of more than `max_tokens` tokens is cut there, and counts as truncated.
    """
    end = [] if tokenizer.end_id is None else [tokenizer.end_id]
    ids = [*tokenizer.encode(prompt.question.solution).tolist(), *end]
    finish = FinishReason.STOP if len(ids) <= max_tokens else FinishReason.LENGTH
    ids = ids[:max_tokens]
    return Trajectory.of_one_turn(ids, [np.nan] * len(ids), prompt.question.solution, finish, 0, NEVER_STALE)


class Demonstrations:
    """Takes the place of the rollout and the rewards pool: nothing is sampled, and what the dataset says is right."""

    def __init__(self, tokenizer: ChatTokenizer, store: ObjectStore) -> None:
        self._tokenizer, self._store = tokenizer, store

    async def generate(self, prompt: Prompt, sampling: Sampling, turn: Turn = Turn.NEW) -> tuple[Row, ...]:
        group = Group(prompt, (demonstration(prompt, self._tokenizer, sampling.max_tokens),))
        ref = self._store.put(group)
        return tuple(replace(row, ref=ref) for row in rows_of_group(group))

    async def judge(self, group: Sequence[Row]) -> tuple[Row, ...]:
        return tuple(replace(row, verdict=Verdict(Outcome.CORRECT)) for row in group)
