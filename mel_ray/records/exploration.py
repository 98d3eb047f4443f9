"""Tickets: how the driver holds what lies in the object store, and one question's whole exploration."""

from dataclasses import dataclass
from typing import Any

from mel_ray.records.experience import DraftFacts
from mel_ray.records.ledger import DraftFate
from mel_ray.records.trajectory import GroupFacts
from mel_ray.records.verdict import GroupVerdict


@dataclass(frozen=True, slots=True)
class GroupTicket:
    """`ref` leads to a Group; `facts` are what the driver may know of it."""

    ref: Any
    facts: GroupFacts


@dataclass(frozen=True, slots=True)
class DraftTicket:
    """`ref` leads to a tuple of Drafts, of which this is number `index`."""

    ref: Any
    index: int
    facts: DraftFacts


@dataclass(frozen=True, slots=True)
class ReplayTicket:
    """The replays of one draft: a group sampled with M in the prompt (MEL Eq. 6)."""

    draft: DraftTicket
    group: GroupTicket


@dataclass(frozen=True, slots=True)
class JudgedDraft:
    """A draft with its fate; `replay` is None where it was rejected before one was made."""

    draft: DraftTicket
    fate: DraftFate
    replay: ReplayTicket | None = None
    replay_verdict: GroupVerdict | None = None

    @property
    def is_lesson(self) -> bool:
        return self.fate is DraftFate.TRAINED


@dataclass(frozen=True, slots=True)
class Exploration:
    """Everything one question brought: its group, the verdict on it, and its drafts with their fates."""

    group: GroupTicket
    verdict: GroupVerdict
    drafts: tuple[JudgedDraft, ...] = ()

    @property
    def lessons(self) -> tuple[JudgedDraft, ...]:
        """D*_M restricted to this question (MEL Eq. 6)."""
        return tuple(draft for draft in self.drafts if draft.is_lesson)
