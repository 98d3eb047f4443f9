"""The keep rule: a meta-experience is proven by re-solving its question with it in the prompt (MEL Eq. 6)."""

from collections.abc import Sequence
from dataclasses import replace

from mel_ray.records.ledger import DraftFate
from mel_ray.records.row import Row, correct, incorrect, success_rate


def replay_fate(replays: Sequence[Row], min_correct: int) -> DraftFate | None:
    """None when at least `min_correct` replays are correct.

    It is proven. Unverified if failures of the verifier decide.
    """
    passed = len(correct(replays))
    unjudged = len(replays) - passed - len(incorrect(replays))
    if passed >= min_correct:
        return None
    return DraftFate.REPLAY_UNVERIFIED if passed + unjudged >= min_correct else DraftFate.REPLAY_FAILED


def prove(
    drafts: Sequence[Row],
    replays: Sequence[Sequence[Row]],
    min_correct: int,
    base_rate: float | None = None,
    min_gain: float | None = None,
) -> tuple[Row, ...]:
    """Every draft with its replays and what they prove: D*_M are those with `is_proven` (MEL Eq. 6).

    `replays` holds the judged replays of each draft, none where it was rejected before. `base_rate` is the success rate
    of the question's own attempts, and what the replays do better is the draft's gain. With `min_gain` it has to be
    larger (beyond the paper): as the policy improves, it passes a replay whatever the lesson says.
    """
    proven = []
    for draft, own in zip(drafts, replays, strict=True):
        passed = success_rate(own)
        gain = None if passed is None or base_rate is None else passed - base_rate
        fate = draft.fate or replay_fate(own, min_correct)
        if fate is None and min_gain is not None and (gain is None or gain <= min_gain):
            fate = DraftFate.NO_GAIN
        proven.append(
            replace(draft, replays=tuple(own), fate=fate, is_proven=fate is None, base_rate=base_rate, gain=gain)
        )
    return tuple(proven)
