"""Small records and rows for tests."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, reduce
from operator import getitem
from typing import Any

import numpy as np
import yaml

from mel_ray.config.load import compose_config, validate
from mel_ray.config.schema import Config
from mel_ray.mel.replay import prove
from mel_ray.records.experience import ContrastivePair, Draft, DraftState, Experience
from mel_ray.records.question import Question, Truth
from mel_ray.records.row import Explored, Ref, Row, RowKind, row_of_draft, rows_of_group
from mel_ray.records.trajectory import FinishReason, Group, Prompt, Trajectory
from mel_ray.records.verdict import Outcome, Verdict

STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH
LETTERS = {"c": "correct", "w": "wrong", "n": "no_answer", "t": "timeout", "e": "error"}


class FakeStore:
    """An object store in a dictionary; a reference is a name."""

    def __init__(self, **records: Any) -> None:
        self.records: dict[Ref, Any] = dict(records)

    async def get(self, refs: Sequence[Ref]) -> list[Any]:
        return [self.records[ref] for ref in refs]

    def put(self, record: Any, name: str = "record") -> Ref:
        """Under `name`, or `name#2` and so on where that is taken."""
        ref, number = name, 2
        while ref in self.records:
            ref, number = f"{name}#{number}", number + 1
        self.records[ref] = record
        return ref


def prompt(question: str = "1 + 1?", answer: str = "2", tokens: int = 3, question_id: str = "q") -> Prompt:
    return Prompt(Question(question, Truth(answer), question_id=question_id), list(range(1, tokens + 1)))


def trajectory(
    length: int = 4, text: str = "\\boxed{2}", finish: FinishReason = STOP, version: int = 1, logprob: float = -0.5
) -> Trajectory:
    return Trajectory.of_one_turn(list(range(length)), [logprob] * length, text, finish, 0, version)


def turns(mask: Sequence[int | bool], versions: Sequence[int] | None = None, seed: int = 0) -> Trajectory:
    """Several turns: tokens outside the mask come from the environment."""
    rng, count = np.random.default_rng(seed), len(mask)
    logprobs = np.where(np.asarray(mask, dtype=bool), rng.normal(-2, 1, count), 0.0)
    own = [1] * count if versions is None else versions
    return Trajectory(rng.integers(0, 11, count), mask, logprobs, own, "\\boxed{2}", STOP, 0)


def group(lengths: tuple[int, ...] = (4, 4), question_id: str = "q", finish: FinishReason = STOP) -> Group:
    return Group(prompt(question_id=question_id), tuple(trajectory(n, finish=finish) for n in lengths))


def verdict(letter: str, score: float | None = None) -> Verdict:
    """c correct, w wrong, n no answer, t timeout, e error."""
    return Verdict(Outcome(LETTERS[letter]), score=score)


def judged(rows: Sequence[Row], letters: str) -> tuple[Row, ...]:
    return tuple(replace(row, verdict=verdict(letter)) for row, letter in zip(rows, letters, strict=True))


def rows_of_record(record: Group, letters: str, ref: Ref, kind: RowKind = RowKind.ATTEMPT) -> tuple[Row, ...]:
    return tuple(replace(row, ref=ref) for row in judged(rows_of_group(record, kind), letters))


def exploration(
    lengths: tuple[int, ...],
    letters: str,
    drafts: Sequence[Row] = (),
    ref: Ref = "group",
    question_id: str = "q",
    finish: FinishReason = STOP,
) -> Explored:
    """A question's attempts of the given lengths with the given verdicts, then its drafts."""
    return (*rows_of_record(group(lengths, question_id, finish), letters, ref), *drafts)


def draft(state: DraftState = DraftState.PARSED, length: int = 5, context: int = 7) -> Draft:
    experience = Experience("Step 1", "It erred.", ("If a, then b.",)) if state is DraftState.PARSED else None
    written = Group(prompt(tokens=context), (trajectory(length, text="M"),))
    return Draft(
        Question("1 + 1?", Truth("2"), question_id="q"),
        ContrastivePair(0, 1),
        "good",
        "bad",
        written,
        experience,
        state,
    )


def draft_row(state: DraftState = DraftState.PARSED, index: int = 0, length: int = 5, ref: Ref = "drafts") -> Row:
    return replace(row_of_draft(draft(state, length), index), ref=ref)


def proven(index: int = 0, length: int = 5, replays: str = "wc", ref: Ref = "drafts") -> Row:
    """A draft after its replays, of 3 tokens each, which came out as given."""
    replayed = rows_of_record(group((3,) * len(replays)), replays, "replays", RowKind.REPLAY)
    (row,) = prove([draft_row(index=index, length=length, ref=ref)], [replayed], 1)
    return row


def with_options(config: Config, **options: Any) -> Config:
    """The configuration with other values, e.g. `algorithm__kl__coefficient=0.1`, unchecked."""
    for path, value in options.items():
        config = _with(config, path.split("__"), value)
    return config


def _with(section: Any, path: Sequence[str], value: Any) -> Any:
    first, *rest = path
    return section.model_copy(update={first: _with(getattr(section, first), rest, value) if rest else value})


@lru_cache(maxsize=64)
def _composed(groups: tuple[str, ...]) -> Config:
    return compose_config(groups)


def config_of(*overrides: str) -> Config:
    """Composed once per choice of groups; single keys are set in it and checked, which is quicker than to compose."""
    values = _composed(tuple(text for text in overrides if "." not in text.partition("=")[0])).model_dump()
    for text in overrides:
        key, _, value = text.partition("=")
        *path, last = key.split(".")
        if path:
            reduce(getitem, path, values)[last] = yaml.safe_load(value)
    return validate(values)


def small_config(*overrides: str) -> Config:
    return config_of("rollout.max_tokens=8", "mel.weight=1.0", *overrides)
