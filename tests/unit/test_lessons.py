"""What is internalised: pair choice, target and context, sections, memory; and that only lesson tokens carry loss."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mel_ray.config.load import compose_config
from mel_ray.config.templates import load_template
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.mel.internalize import lesson_sequence
from mel_ray.mel.lesson import Memory, lessons_of
from mel_ray.mel.pairing import common_prefix, select_pairs
from mel_ray.mel.parsing import heuristics_characters
from mel_ray.records import ContrastivePair, Group, SequenceKind, SequenceSpec, Trajectory
from mel_ray.policy.batch import lesson_specs
from tests.unit.builders import draft, exploration, group, prompt, proven_draft, verdict


def mel(*overrides):
    return compose_config(overrides).mel


def trajectory(tokens, logprob=-0.5):
    return Trajectory(tokens, [logprob] * len(tokens), "", "stop", 0, 0)


def test_pairs_with_the_longest_common_beginning():
    drawn = Group(
        prompt(), (trajectory([1, 2, 3, 4]), trajectory([1, 2, 9]), trajectory([1, 7, 8]), trajectory([5, 2]))
    )
    assert common_prefix(drawn.trajectories[0], drawn.trajectories[1]) == 2
    choice = "shortest_correct_longest_common_prefix"
    pairs = select_pairs(drawn, verdict(*"cwwc"), 3, 0, choice)
    # trajectory 3 is the shortest correct one and shares nothing; then 0, which shares two tokens with 1
    assert {pairs[0], pairs[1]} == {ContrastivePair(3, 1), ContrastivePair(3, 2)}
    assert pairs[2] == ContrastivePair(0, 1)


def test_hardest_pairs_contrast_the_likeliest_mistake_with_the_unlikeliest_success():
    drawn = Group(prompt(), tuple(trajectory([1, 2], logprob) for logprob in (-0.1, -3.0, -0.2, -2.0)))
    assert select_pairs(drawn, verdict(*"ccww"), 1, 0, "hardest") == (ContrastivePair(1, 2),)


def test_targets_and_contexts():
    explored = exploration((2, 2), "cw", (proven_draft(length=5),), "question")
    (retrospective,) = lessons_of(explored, mel())
    assert (retrospective.kind, retrospective.context_ref, retrospective.context_tokens) == ("experience", None, 7)
    (bare,) = lessons_of(explored, mel("mel.context=question"))
    assert (bare.kind, bare.ref, bare.context_ref, bare.context_tokens) == ("experience", "drafts", "question", 3)
    (replayed,) = lessons_of(explored, mel("mel.target=replay"))
    # the replays came out wrong, correct: the second is learned, behind the question alone
    assert (replayed.kind, replayed.ref, replayed.index) == ("replay", "replays", 1)
    assert (replayed.context_ref, replayed.context_tokens, replayed.span) == ("question", 3, (0, 3))


def test_heuristics_alone():
    drafted = proven_draft(length=9)
    facts = replace(drafted.draft.facts, heuristics_span=(6, 9))
    explored = exploration((2, 2), "cw", (replace(drafted, draft=replace(drafted.draft, facts=facts)),))
    (lesson,) = lessons_of(explored, mel("mel.sections=heuristics"))
    assert (lesson.tokens, lesson.span, lesson.trained_tokens) == (9, (6, 9), 3)
    (spec,) = lesson_specs([lesson], 1.0, "experience")
    assert spec.nll_weight == pytest.approx(1 / 3)  # averaged over the trained tokens
    assert lesson_sequence(spec, draft(length=9)).nll_weight.tolist() == pytest.approx([0] * 6 + [1 / 3] * 3)


def test_the_tokens_of_a_section():
    tokenizer, template = ChatTokenizer(EMBEDDED, compose_config().model), load_template("tiny")
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
    spec = SequenceSpec(SequenceKind.EXPERIENCE, "r", 0, context, length, nll_weight=0.2, span=(start, end))
    sequence = lesson_sequence(spec, draft(length=length, context=context))
    assert sequence.completion_start == context
    assert len(sequence.nll_weight) == length == len(sequence.token_ids) - context
    assert np.flatnonzero(sequence.nll_weight).tolist() == list(range(start, end))
    assert not sequence.pg_weight.any()
    assert not sequence.advantages.any()


def test_another_context_replaces_the_one_it_was_written_in():
    spec = SequenceSpec(SequenceKind.EXPERIENCE, "r", 0, 3, 5, nll_weight=0.2)
    question = Group(prompt(tokens=3), group((2,)).trajectories)
    sequence = lesson_sequence(spec, draft(length=5, context=7), question)
    assert sequence.token_ids.tolist() == [1, 2, 3, 0, 1, 2, 3, 4]
    assert sequence.completion_start == 3


def test_a_replay_is_learned_behind_the_bare_question():
    replays = Group(prompt(tokens=9), group((4, 2)).trajectories)
    spec = SequenceSpec(SequenceKind.REPLAY, "r", 1, 3, 2, nll_weight=0.5)
    sequence = lesson_sequence(spec, replays, Group(prompt(tokens=3), ()))
    assert sequence.token_ids.tolist() == [1, 2, 3, 0, 1]
    assert sequence.nll_weight.tolist() == [0.5, 0.5]


def test_memory_is_bounded_by_size_and_age():
    lessons = [replace(one, index=index) for index, one in enumerate(lessons_of(
        exploration((2, 2), "cw", (proven_draft(),)), mel()) * 6)]  # fmt: skip
    memory = Memory(size=4, max_age=5, seed=0)
    memory.add(1, lessons[:3])
    memory.add(3, lessons[3:])
    assert [lesson.index for _, lesson in memory.entries] == [2, 3, 4, 5]
    assert {lesson.index for lesson in memory.draw(6, 10)} == {2, 3, 4, 5}
    assert {lesson.index for lesson in memory.draw(7, 10)} == {3, 4, 5}  # the first is now older than five steps
    assert memory.draw(7, 2) == memory.draw(7, 2)
    assert memory.draw(9, 10) == []
    restored = Memory(size=0, max_age=5, seed=0)
    restored.entries = [(3, lessons[0])]  # of a checkpoint from before it was switched off
    assert restored.draw(4, 10) == []
    off = Memory(size=0, max_age=5, seed=0)
    off.add(1, lessons)
    assert off.entries == []
