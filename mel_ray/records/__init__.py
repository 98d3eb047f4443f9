"""The data that flows through the system: frozen, slotted, checked when built. See docs/architecture.md."""

from mel_ray.records.experience import ContrastivePair, Draft, DraftFacts, DraftState, Experience
from mel_ray.records.ledger import DraftFate, Ledger, TrajectoryFate, ledger
from mel_ray.records.report import EvalReport, StepReport, UpdateReport
from mel_ray.records.sequence import SequenceKind, SequenceSpec, TrainSequence
from mel_ray.records.trajectory import FinishReason, Group, GroupFacts, Prompt, Sampling, Trajectory
from mel_ray.records.verdict import GroupVerdict, Outcome, Verdict

__all__ = [
    "ContrastivePair",
    "Draft",
    "DraftFacts",
    "DraftFate",
    "DraftState",
    "EvalReport",
    "Experience",
    "FinishReason",
    "Group",
    "GroupFacts",
    "GroupVerdict",
    "Ledger",
    "Outcome",
    "Prompt",
    "Sampling",
    "SequenceKind",
    "SequenceSpec",
    "StepReport",
    "TrainSequence",
    "Trajectory",
    "TrajectoryFate",
    "UpdateReport",
    "Verdict",
    "ledger",
]
