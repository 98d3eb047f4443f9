"""Lessons looked up at evaluation (`mel evaluate memory=`): which question gets which, and what is refused."""

import pytest

from mel_ray.cli.evaluate import parse
from mel_ray.config.learning import RetrievalConfig
from mel_ray.config.load import to_yaml
from mel_ray.config.templates import load_template
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.mel.test_time import lessons_of_run, with_lessons
from mel_ray.records.problem import ConfigError
from mel_ray.run.store import EXPERIENCE_SCHEMA, write_rows
from tests.unit.builders import config_of, prompt

BM25, TEMPLATE = RetrievalConfig(method="bm25"), load_template("tiny")
WORDS = ("fence", "clocks", "vans", "lamps", "floor")
TOKENIZER = ChatTokenizer(EMBEDDED, config_of().model)


def stored(word: str, kept: bool = True, written: str | None = None) -> dict:
    empty = dict.fromkeys(EXPERIENCE_SCHEMA.names)
    known = {"step": 3, "question_id": word, "question": f"How many {word}?", "heuristics": [f"If {word}, then count."]}
    return empty | known | {"written": written or f"Heuristic: {word}.", "kept": kept, "replays": []}


def run_with(folder, experiences, *keys):
    (folder / "experiences").mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config_of(*keys)))
    write_rows(folder / "experiences" / "step-000003.parquet", experiences, EXPERIENCE_SCHEMA)
    return folder


def texts(prompts):
    return [TOKENIZER.decode(one.token_ids) for one in prompts]


def test_each_question_gets_the_lesson_that_fits_it():
    lessons = lessons_of_run([stored(word) for word in WORDS])
    asked = [prompt(f"Are there {word} here?", question_id="new") for word in WORDS]
    found, helped = with_lessons(asked, lessons, TEMPLATE, TOKENIZER, BM25, 400)
    assert helped == len(WORDS)
    for word, text in zip(WORDS, texts(found), strict=True):
        assert f"Problem: Are there {word} here?\nLesson:\nHeuristic: {word}." in text


def test_where_nothing_fits_or_the_prompt_would_be_too_long_the_question_is_asked_alone():
    lessons = lessons_of_run([stored(word) for word in WORDS])
    asked = (
        prompt("What is it?", question_id="new"),
        prompt("Are there vans here?", question_id="vans"),  # its own lesson does not count
    )
    assert with_lessons(asked, lessons, TEMPLATE, TOKENIZER, BM25, 400) == (asked, 0)
    other = (prompt("Are there vans here?", question_id="new"),)
    assert with_lessons(other, lessons, TEMPLATE, TOKENIZER, BM25, 8) == (other, 0)


def test_of_equal_heuristics_the_latest_lesson_is_kept_and_rejected_ones_are_not():
    rows = [stored("vans", written="old"), stored("vans", written="new"), stored("lamps", kept=False)]
    assert [one.written for one in lessons_of_run(rows)] == ["new"]


def test_a_run_is_looked_up_on_the_command_line(tmp_path):
    run = run_with(tmp_path / "run", [stored(word) for word in WORDS])
    words = ["benchmarks=[world_heldout]", f"memory=[none,{run}]", "model=[tiny,tiny]"]
    (bare, helped), _ = parse(words)
    assert (bare.label, helped.label) == ("tiny", f"tiny with {run}")
    assert bare.file_stem != helped.file_stem
    (note,) = [note for note in helped.prepared.notes if "lessons of" in note]
    assert f"of 96 questions get one of 5 lessons of {run}" in note
    first, second = (job.prepared.benchmarks[0].prompts for job in (bare, helped))
    assert [one.question for one in first] == [one.question for one in second]
    assert any("Lesson:" in text for text in texts(second))
    assert not any("Lesson:" in text for text in texts(first))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["memory=nowhere"], "memory=nowhere: there is no run in this folder"),
        (["memory=[none,none]"], "there are 2 memories for 1 model"),
        (["memory={run}"], "the run has kept no meta-experience"),
    ],
)
def test_wrong_requests_are_sentences(tmp_path, words, sentence):
    run = run_with(tmp_path / "run", [stored("vans", kept=False)])
    with pytest.raises(ConfigError) as caught:
        parse([word.format(run=run) for word in words])
    assert sentence in str(caught.value)


def test_a_run_whose_replays_were_shown_other_lessons_has_proven_none(tmp_path):
    run = run_with(tmp_path / "run", [stored("vans")], "mel.lesson=shuffled")
    with pytest.raises(ConfigError, match=r"mel\.lesson=shuffled\), so none is proven"):
        parse([f"memory={run}"])
