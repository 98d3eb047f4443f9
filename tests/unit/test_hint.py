"""Lesson-conditioned credit: which attempts get it, what of which sign, and that an empty lesson gives none."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mel_ray.config.learning import HintConfig
from mel_ray.mel.hint import hint_credit, hints_of, lending
from mel_ray.policy.rows import rows_of
from mel_ray.records.ledger import DraftFate
from mel_ray.records.row import RowKind
from tests.unit.builders import config_of, exploration, proven

HINT = HintConfig()
FAILED = replace(proven(index=1, replays="w"), is_proven=False, fate=DraftFate.REPLAY_FAILED)


def mel(*overrides):
    return config_of(*overrides).mel


def question(*drafts, letters="cw"):
    return rows_of([exploration((4,) * len(letters), letters, lending(drafts, mel("mel.credit=hint")))])


def test_the_first_proven_draft_lends_credit():
    drafts = lending((FAILED, proven(index=2), proven(index=3)), mel("mel.credit=hint"))
    assert [draft.lends_credit for draft in drafts] == [False, True, False]
    assert not any(draft.lends_credit for draft in lending((proven(),), mel()))
    assert not any(draft.lends_credit for draft in lending((FAILED,), mel("mel.credit=[hint,augment]")))


@pytest.mark.parametrize("letters", ["cw", "ww"])
def test_every_attempt_is_read_with_the_lesson_in_its_prompt(letters):
    rows = question(proven(), letters=letters)
    hints = hints_of(rows, "none")
    assert [hint.attempt.sample for hint in hints] == [("group", 0), ("group", 1)]
    for hint in hints:
        assert (hint.with_lesson.ref, hint.with_lesson.context) == ("group", "replays")
        assert hint.with_lesson.prompt_tokens == rows[2].replays[0].prompt_tokens
        assert hint.with_wrong_lesson is None


def test_a_lesson_that_failed_is_the_contrast():
    rows = question(proven(), FAILED)
    assert all(hint.with_wrong_lesson is not None for hint in hints_of(rows, "wrong_lesson"))
    assert all(hint.with_wrong_lesson is None for hint in hints_of(rows, "none"))
    assert all(hint.with_wrong_lesson is None for hint in hints_of(question(proven()), "wrong_lesson"))
    assert hints_of(question(FAILED), "wrong_lesson") == []


def test_a_lesson_that_is_too_old_lends_nothing():
    old = replace(proven(), versions=(1, 3))
    assert len(hints_of(question(old), "none", oldest=1)) == 2
    assert hints_of(question(old), "none", oldest=2) == []
    recalled = [replace(row, kind=RowKind.RECALLED) if row.kind is RowKind.DRAFT else row for row in question(old)]
    assert len(hints_of(recalled, "none", oldest=2)) == 2  # it was written for another question, long ago


logprobs = st.lists(st.floats(-20, 0), min_size=1, max_size=8).map(lambda values: np.array(values, dtype=np.float32))


@given(logprobs, st.booleans(), st.sampled_from(["free", "verdict"]))
def test_an_empty_lesson_gives_exactly_nothing(bare, is_correct, sign):
    for wrong in (None, bare.copy()):
        credit = hint_credit(bare, bare.copy(), wrong, is_correct, 1.0, HintConfig(sign=sign))
        assert not credit.any()


def test_what_the_lesson_makes_likelier_is_asked_for():
    bare, lesson = np.float32([-1, -1, -1]), np.float32([-0.5, -1, -9])
    expected = np.tanh([0.5, 0.0, -8.0])
    assert hint_credit(bare, lesson, None, True, 1.0, HINT) == pytest.approx(expected)
    assert hint_credit(bare, lesson, None, True, 0.5, HintConfig(weight=3.0)) == pytest.approx(1.5 * expected)
    wide = hint_credit(bare, lesson, None, True, 1.0, HintConfig(width=4.0))
    assert wide == pytest.approx(np.tanh([0.125, 0.0, -2.0]))


def test_a_wrong_lesson_is_subtracted():
    bare, lesson, wrong = np.float32([-1, -1]), np.float32([-0.5, -2]), np.float32([-0.5, -1])
    assert hint_credit(bare, lesson, wrong, True, 1.0, HINT) == pytest.approx([0.0, np.tanh(-1.0)])


@pytest.mark.parametrize(("is_correct", "kept"), [(True, [0]), (False, [1])])
def test_the_sign_follows_the_verdict_on_request(is_correct, kept):
    bare, lesson = np.float32([-1, -1]), np.float32([-0.5, -2])
    credit = hint_credit(bare, lesson, None, is_correct, 1.0, HintConfig(sign="verdict"))
    assert np.flatnonzero(credit).tolist() == kept
    free = hint_credit(bare, lesson, None, is_correct, 1.0, HINT)
    assert credit[kept] == free[kept]
