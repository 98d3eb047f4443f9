"""The embedded world: its families, its split, and the base model that ships with it."""

from argparse import Namespace
from hashlib import blake2b
from itertools import islice
from random import Random

import pytest

from mel_ray.config.schema import SourceConfig
from mel_ray.config.templates import load_template
from mel_ray.data.datasets import load
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.data.world import corpus, problems
from mel_ray.data.world.family import route
from mel_ray.data.world.pretrain import teaching_of
from mel_ray.data.world.rules import ACTS, BANDS, LARGEST, RULES, rules
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


# -- the world of many rules


def rules_of(split, **options):
    found = load(SourceConfig(kind="rules", split=split, **options)).questions
    return {one.columns["family"] for one in found}, found


def test_rules_are_dealt_to_the_bands_in_turn_and_some_are_never_asked():
    asked, unasked = rules()
    assert (len(asked), len(unasked)) == (RULES, RULES // 4)
    assert [sum(one.skill == band for one in asked) for band in BANDS] == [32, 32, 32]
    assert len({one.name for one in asked + unasked}) == RULES + RULES // 4
    assert {one.right for one in asked} == {one.wrong for one in asked} == set(ACTS)
    assert all(one.right != one.wrong for one in asked + unasked)


def test_a_rule_is_the_same_in_a_world_of_any_size():
    def said(family):
        return family.rule(True), family.rule(False)

    small, large = rules(8)[0], rules(LARGEST)[0]
    assert len(large) == LARGEST
    assert [said(one) for one in small] == [said(one) for one in large[:8]]


def test_questions_of_rules_by_split_and_band():
    asked, unasked = rules()
    trained, questions = rules_of("train", count=6000)
    assert trained == {one.name for one in asked}
    assert len(questions) == 6000
    held, tested = rules_of("heldout", count=300)
    assert held == trained
    assert not {one.text for one in questions} & {one.text for one in tested}
    assert rules_of("unasked", count=96)[0] == {one.name for one in unasked}
    for band in BANDS:
        names, found = rules_of("heldout", count=96, band=band)
        assert names == {one.name for one in asked if one.skill == band}
        assert {one.columns["band"] for one in found} == {band}
    assert rules_of("train", count=50, rules=2, bands=(0.3,))[0] == {one.name for one in asked[:2]}


def test_a_rule_tells_what_its_questions_answer():
    """The second step of an act is worked on the result of the first."""
    _, questions = rules_of("heldout", count=200)
    for one in questions:
        _, _, act = one.columns["world_rule"].removesuffix(".").partition(", then ")
        numbers = [int(word) for word in one.text.replace("?", " ").replace(".", " ").split() if word.isdigit()]
        value = 0
        for line in ACTS[act]:
            value = eval(line.format(a=numbers[0], b=numbers[1]).replace("_", str(value)))
        assert one.truth.answer == str(value)
        assert last_boxed(one.solution) == one.truth.answer


def test_the_corpus_of_rules_teaches_as_it_is_told():
    told = teaching_of(Namespace(world="rules", rules=96, bands=BANDS, lesson_right=0.8, answer_alone=0.5))
    rng, right, alone, count = Random(3), 0, 0, 600
    for _ in range(count):
        prompt, lesson = corpus.retrospective(rng, told)
        asked = next(one for one in told.families if f" {one.name} " in prompt)
        right += asked.rule(True) in lesson
        alone += "Step" not in prompt.partition("Correct:")[2]
    assert right / count == pytest.approx(0.8 * 0.925, abs=0.06)  # three in four of the malformed keep their rule
    assert alone / count == pytest.approx(0.5, abs=0.07)
    assert corpus.TEACHING.answer_alone == 0.0


def test_the_committed_world_is_taught_as_before():
    """The stream of documents of its recipe, by a digest."""
    texts = [text for batch in islice(corpus.batches(0), 3) for kind in batch for document in kind for text in document]
    assert blake2b("\n".join(texts).encode(), digest_size=8).hexdigest() == "200ef5a52a243441"
