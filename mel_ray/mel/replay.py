"""The keep rule: a meta-experience is proven by re-solving its question with it in the prompt (MEL Eq. 6)."""

from collections.abc import Mapping, Sequence

from mel_ray.records.experience import DraftState
from mel_ray.records.exploration import DraftTicket, JudgedDraft, ReplayTicket
from mel_ray.records.ledger import DraftFate
from mel_ray.records.verdict import GroupVerdict

_REJECTED = {
    DraftState.TRUNCATED: DraftFate.TRUNCATED,
    DraftState.PARSE_FAILURE: DraftFate.PARSE_FAILURE,
    DraftState.LEAKED_ANSWER: DraftFate.LEAKED_ANSWER,
    DraftState.CONTEXT_TOO_LONG: DraftFate.CONTEXT_TOO_LONG,
}


def replay_fate(verdict: GroupVerdict, min_correct: int) -> DraftFate:
    """Kept when at least `min_correct` replays are correct; unverified if failures of the verifier decide it."""
    correct = len(verdict.correct)
    unjudged = len(verdict.verdicts) - correct - len(verdict.incorrect)
    if correct >= min_correct:
        return DraftFate.TRAINED
    return DraftFate.REPLAY_UNVERIFIED if correct + unjudged >= min_correct else DraftFate.REPLAY_FAILED


def proven(
    drafts: Sequence[DraftTicket],
    replays: Sequence[ReplayTicket],
    verdicts: Sequence[GroupVerdict],
    min_correct: int,
) -> tuple[JudgedDraft, ...]:
    """Every draft with its fate: D*_M are those with fate TRAINED (MEL Eq. 6)."""
    replayed: Mapping[int, tuple[ReplayTicket, GroupVerdict]] = {
        replay.draft.index: (replay, verdict) for replay, verdict in zip(replays, verdicts, strict=True)
    }
    judged = []
    for draft in drafts:
        if draft.facts.state in _REJECTED:
            judged.append(JudgedDraft(draft, _REJECTED[draft.facts.state]))
        else:
            replay, verdict = replayed[draft.index]
            judged.append(JudgedDraft(draft, replay_fate(verdict, min_correct), replay, verdict))
    return tuple(judged)
