"""A question, and everything that is needed to ask it and to judge an answer to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Truth:
    """What an answer is judged against (y* of MEL Eq. 1).

    An answer is also correct if it equals one of `alternatives`, or is a number within `tolerance` of the answer;
    several tolerances belong to the items of a list.
    `options` are the texts of a multiple-choice question, A first.
    """

    answer: str
    alternatives: tuple[str, ...] = ()
    tolerance: float | tuple[float, ...] = 0.0
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """A question `x` of a dataset, before it is rendered for a model.

    `context` are the messages before it (a system message, earlier turns), `source` names the training source or
    benchmark it comes from, `columns` is the dataset's row, for custom rewards, `solution` a worked one where the
    dataset has it. `question_id` is stable across runs and
    machines: a digest of what is asked, unless given.
    """

    text: str
    truth: Truth
    context: tuple[Message, ...] = ()
    source: str = "train"
    columns: Mapping[str, Any] = field(default_factory=dict)
    solution: str = ""
    question_id: str = ""

    def __post_init__(self) -> None:
        if not self.question_id:
            before = (f"{one.role}\x1e{one.content}" for one in self.context)
            asked = "\x1f".join([*before, self.text, *self.truth.options])
            object.__setattr__(self, "question_id", blake2b(asked.encode(), digest_size=8).hexdigest())
