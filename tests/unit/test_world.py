"""The embedded world: its families, its split, and the base model that ships with it."""

from itertools import islice
from random import Random

import pytest

from mel_ray.config.templates import load_template
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.data.world import corpus, problems
from mel_ray.data.world.family import route
from mel_ray.mel.parsing import ParseFailure, parse_experience
from mel_ray.rewards.extract import last_boxed


def test_routes_are_worked_line_by_line():
    assert route("3 * 4", "5 + _").lines == ("3 * 4 = 12", "5 + 12 = 17")
    assert route("3 * 4", "The count is _").answer == 12
    assert route("26 / 8 = 3 rest 2", "3 + 1").answer == 4
    assert route("5 - 9").answer == -4


@pytest.mark.parametrize("family", problems.FAMILIES, ids=lambda family: family.name)
def test_each_family_has_a_pitfall_in_both_splits(family):
    rng = Random(0)
    for split in ("train", "heldout"):
        for _ in range(20):
            problem = problems.sample(rng, split, family)
            assert problem.right.answer != problem.wrong.answer
            assert problems.split_of(family, problem.key) == split
            assert "_" not in "".join(problem.right.lines + problem.wrong.lines)
    assert 0.0 < family.skill < 1.0


def test_there_are_24_families_with_rules_that_parse():
    assert len({family.name for family in problems.FAMILIES}) == 24
    template = load_template("tiny")
    for family in problems.FAMILIES:
        for is_right in (True, False):
            lesson = corpus.write_lesson("Step 1", family, is_right)
            assert parse_experience(lesson, template).heuristics == (family.rule(is_right),)


def test_held_out_questions_are_neither_trained_on_nor_in_the_corpus():
    train = {problem.question for problem in problems.questions("train", 2000, 0)}
    held = {p.question for phrasings in ((0, 1), (2,)) for p in problems.questions("heldout", 96, 1, phrasings)}
    assert len(held) == 192
    assert not train & held
    texts = [prompt for batch in islice(corpus.batches(0), 400) for kind in batch for prompt, _ in kind]
    seen = {
        line.removeprefix("Problem: ") for text in texts for line in text.split("\n") if line.startswith("Problem: ")
    }
    assert len(seen) > 5000
    assert not seen & held


def test_questions_are_deterministic_and_distinct():
    first = problems.questions("train", 500, 3)
    assert first == problems.questions("train", 500, 3)
    assert len({problem.question for problem in first}) == 500


def test_documents_look_as_the_run_expects():
    rng, template = Random(5), load_template("tiny")
    answered = malformed = 0
    for _ in range(200):
        answered += last_boxed(corpus.solve(rng)[1]) is not None
        try:
            parse_experience(corpus.retrospective(rng)[1], template)
        except ParseFailure:
            malformed += 1
        assert "Lesson:" in corpus.replay(rng)[0]
        assert len(corpus.drill(rng)[1].split("\n")) == corpus.DRILL_LINES
    assert answered == 200
    assert 5 <= malformed <= 40  # one in ten is written badly on purpose


def test_the_base_model_in_the_repository_is_small():
    assert sum(file.stat().st_size for file in EMBEDDED.iterdir()) < 12_000_000
