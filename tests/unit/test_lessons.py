"""mel/replay.py and mel/lesson.py: what is proven, what of it is learned, and as an answer to what."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mel_ray.config.templates import load_template
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.mel.lesson import lessons_of
from mel_ray.mel.parsing import heuristics_characters
from mel_ray.mel.replay import prove
from mel_ray.policy.rows import rows_of, weigh_lessons
from mel_ray.policy.sequences import train_sequence
from mel_ray.records.experience import DraftState
from mel_ray.records.ledger import DraftFate
from mel_ray.records.row import RowKind
from mel_ray.records.trajectory import Group
from tests.unit.builders import config_of, draft, draft_row, exploration, group, prompt, proven, rows_of_record


def mel(*overrides):
    return config_of(*overrides).mel


def lessons(explored, *overrides):
    return lessons_of(rows_of([explored]), mel(*overrides))


@pytest.mark.parametrize(
    ("replays", "needed", "fate"),
    [
        ("c", 1, None),
        ("w", 1, DraftFate.REPLAY_FAILED),
        ("n", 1, DraftFate.REPLAY_FAILED),
        ("t", 1, DraftFate.REPLAY_UNVERIFIED),
        ("cw", 1, None),
        ("cw", 2, DraftFate.REPLAY_FAILED),
        ("ct", 2, DraftFate.REPLAY_UNVERIFIED),
        ("cc", 2, None),
    ],
)
def test_keep_rule(replays, needed, fate):
    replayed = rows_of_record(group((3,) * len(replays)), replays, "replays", RowKind.REPLAY)
    (judged,) = prove([draft_row()], [replayed], needed)
    assert (judged.fate, judged.is_proven, judged.replays) == (fate, fate is None, replayed)


def test_rejected_drafts_keep_their_reason_and_prove_nothing():
    states = [DraftState.PARSE_FAILURE, DraftState.LEAKED_ANSWER, DraftState.TRUNCATED, DraftState.CONTEXT_TOO_LONG]
    rejected = [draft_row(state, index) for index, state in enumerate(states)]
    judged = prove(rejected, [()] * 4, 1)
    assert [one.fate.value for one in judged] == [state.value for state in states]
    assert not any(one.is_proven for one in judged)
    assert lessons(exploration((2, 2), "cw", judged)) == []


def test_targets_and_contexts():
    explored = exploration((2, 2), "cw", [proven(length=5)], "question")
    (retrospective,) = lessons(explored)
    assert (retrospective.kind, retrospective.context, retrospective.prompt_tokens) == (RowKind.DRAFT, None, 7)
    (bare,) = lessons(explored, "mel.context=question")
    assert (bare.kind, bare.ref, bare.context, bare.prompt_tokens) == (RowKind.DRAFT, "drafts", "question", 3)
    (replayed,) = lessons(explored, "mel.target=replay")
    # the replays came out wrong, correct: the second is learned, conditioned on the question alone
    assert (replayed.kind, replayed.ref, replayed.index) == (RowKind.REPLAY, "replays", 1)
    assert (replayed.context, replayed.prompt_tokens, replayed.span) == ("question", 3, None)
    assert replayed.sample == ("drafts", 0)  # it is the draft whose fate it decides


def test_every_lesson_has_the_context_of_its_own_question():
    explored = [exploration((2, 2), "cw", [proven(ref=f"drafts-{name}")], name) for name in "AB"]
    found = lessons_of(rows_of(explored), mel("mel.context=question"))
    assert [(lesson.ref, lesson.context, lesson.group) for lesson in found] == [
        ("drafts-A", "A", 0), ("drafts-B", "B", 1),
    ]  # fmt: skip


def test_heuristics_alone():
    drafted = replace(proven(length=9), heuristics=(6, 9))
    (lesson,) = lessons(exploration((2, 2), "cw", [drafted]), "mel.sections=heuristics")
    assert (lesson.tokens, lesson.span, lesson.trained_tokens) == (9, (6, 9), 3)
    (weighed,) = weigh_lessons([lesson], 1.0, "experience")
    assert weighed.nll_weight == pytest.approx(1 / 3)  # averaged over the trained tokens
    sequence = train_sequence(weighed, {"drafts": (draft(length=9),)})
    assert np.flatnonzero(sequence.mask).tolist() == [7 + 6, 7 + 7, 7 + 8]
    assert sequence.nll_weight.tolist() == pytest.approx([1 / 3] * 3)


def test_the_tokens_of_a_section():
    tokenizer, template = ChatTokenizer(EMBEDDED, config_of().model), load_template("tiny")
    text = "Bifurcation: Step 2.\nCritique: It did this.\nHeuristic: If a sum holds a product, then multiply first."
    ids = [*tokenizer.encode(text).tolist(), tokenizer.stop_ids[0]]
    start, end = tokenizer.token_span(ids, *heuristics_characters(text, template))
    assert end == len(ids)  # the end of sequence belongs to what precedes it
    assert tokenizer.decode(ids[start:end]).strip() == "Heuristic: If a sum holds a product, then multiply first."
    before = text.index("Critique")
    start, end = tokenizer.token_span(ids, before, text.index("Heuristic"))
    assert tokenizer.decode(ids[start:end]).strip() == "Critique: It did this."
    assert tokenizer.token_span([], 0, 0) == (0, 0)


@given(st.integers(1, 20), st.integers(1, 30), st.data())
def test_nll_never_touches_the_context(context, length, data):
    start = data.draw(st.integers(0, length - 1))
    end = data.draw(st.integers(start + 1, length))
    row = replace(draft_row(length=length, ref="r"), nll_weight=0.2, span=(start, end), trained_tokens=end - start)
    sequence = train_sequence(row, {"r": (draft(length=length, context=context),)})
    assert len(sequence.token_ids) == context + length
    assert np.flatnonzero(sequence.mask).tolist() == list(range(context + start, context + end))
    assert sequence.nll_weight.tolist() == pytest.approx([0.2] * (end - start))
    assert not sequence.pg_weight.any()
    assert not sequence.advantages.any()


def test_another_context_replaces_the_one_it_was_written_from():
    row = replace(draft_row(length=5, ref="r"), nll_weight=0.2, context="question")
    question = Group(prompt(tokens=3), group((2,)).trajectories)
    sequence = train_sequence(row, {"r": (draft(length=5, context=7),), "question": question})
    assert sequence.token_ids.tolist() == [1, 2, 3, 0, 1, 2, 3, 4]
    assert sequence.mask.tolist() == [False] * 3 + [True] * 5


def test_a_replay_is_learned_as_an_answer_to_the_bare_question():
    record = Group(prompt(tokens=9), group((4, 2)).trajectories)
    row = replace(rows_of_record(record, "cc", "r", RowKind.REPLAY)[1], nll_weight=0.5, context="question")
    sequence = train_sequence(row, {"r": record, "question": Group(prompt(tokens=3), ())})
    assert sequence.token_ids.tolist() == [1, 2, 3, 0, 1]
    assert sequence.nll_weight.tolist() == [0.5, 0.5]


def test_a_draft_that_was_never_written_cannot_be_trained():
    skipped = replace(draft(DraftState.CONTEXT_TOO_LONG), written=None)
    with pytest.raises(ValueError, match="was skipped: context_too_long"):
        train_sequence(draft_row(ref="r"), {"r": (skipped,)})
