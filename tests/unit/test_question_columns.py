"""Questions from columns, templates and messages; rows chosen by columns; what is left out and what is an error."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mel_ray.config.checks import find_problems
from mel_ray.config.load import compose_config
from mel_ray.config.schema import SourceConfig
from mel_ray.data.datasets import load
from mel_ray.records.problem import ConfigError
from mel_ray.records.question import Message
from mel_ray.rewards.registry import plain_form
from tests.unit.public_data import public


def loaded(tmp_path, rows, **keys):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return load(SourceConfig(kind="table", path=str(file), **keys))


def texts(tmp_path, rows, **keys):
    return [one.text for one in loaded(tmp_path, rows, **keys).questions]


def sentence(tmp_path, rows, **keys):
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, rows, **keys)
    return str(caught.value)


TWO = [{"Body": "Ann has 3.", "Question": "And 2 more?", "answer": 5.0, "a b": "c", "n": None}]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ Body }} {{ Question }}", "Ann has 3. And 2 more?"),
        ("{{Body}}\n{{Question|upper}}", "Ann has 3.\nAND 2 MORE?"),
        ('{{ row["a b"] }} of {{ Body }}', "c of Ann has 3."),
        ("{% if hint is defined %}{{ hint }}{% endif %}{{ Body }}", "Ann has 3."),
        ('{{ n or "none" }}: {{ Body }}', "none: Ann has 3."),
        ("Body: {{ Body }}, {{ answer }}", "Body: Ann has 3., 5.0"),
        ("{{ Body }} {{ '{{ Question }}' }}", "Ann has 3. {{ Question }}"),
    ],
)
def test_a_template_over_the_row(template, text, tmp_path):
    assert texts(tmp_path, TWO, question=template) == [text]


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ Body }} {{ Quest }}", "no column 'Quest'; it has: Body, Question, answer, a b, n"),
        ("{{ Body.x }}", "a template that cannot be filled"),
        ("{{ n }}", "a null value that the template prints"),
        ("{{ Body | nope }}", "No filter named 'nope'"),
        ("{{ Body + 1 }}", "the template cannot be used: TypeError"),
        ("{{ Body.__class__.__mro__ }}", "unsafe"),
        ("{{ Body | lettered }}", "the options are neither"),
        ("{{ Body", "unexpected end of template"),
        ("{% raw %} {% endraw %}", "no question"),
    ],
)
def test_what_is_wrong_with_a_template_is_one_sentence(template, why, tmp_path):
    said = sentence(tmp_path, TWO, question=template)
    assert why in said and "\n" not in said


def test_a_template_is_checked_before_files_are_read():
    config = compose_config(["data=table", "data.train.path=x.jsonl", "data.train.question={{ a"])
    assert any("not a Jinja template" in str(problem) for problem in find_problems(config))


@pytest.mark.parametrize(
    "text",
    ["{{ Body }} {{ Question }}", "Q: {{ a }}, {{ b }}", "{% if a %}{{ a }}{% endif %}",
     '{{ question }}{{ "\\n" }}{{ choices | lettered }}', "{{ row['a b'] }}"],
)  # fmt: skip
def test_a_template_on_the_command_line_arrives_as_it_is(text):
    assert compose_config([f"data.train.question={text}"]).data.train.question == text


def test_options_with_letters(tmp_path):
    row = {"question": "Which?", "answer": "2", "choices": {"text": ["a", "b"], "label": ["1", "2"]}}
    (found,) = loaded(
        tmp_path, [row], question='{{ question }}{{ "\\n" }}{{ choices | lettered }}', options="choices"
    ).questions
    assert found.text == "Which?\nA. a\nB. b"
    assert (found.truth.answer, found.truth.options) == ("B", ("a", "b"))


def chat(*pairs, names=("role", "content")):
    return [dict(zip(names, pair)) for pair in pairs]


@pytest.mark.parametrize(
    "prompt",
    [
        chat(("system", "Be brief."), ("user", " Q1 "), ("assistant", "A1"), ("user", "Q2"), ("assistant", "A2")),
        chat(("system", "Be brief."), ("human", " Q1 "), ("gpt", "A1"), ("user", "Q2"), names=("from", "value")),
        json.dumps(chat(("system", "Be brief."), ("user", "Q1"), ("assistant", "A1"), ("user", "Q2"))),
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Q1"}]},
         {"role": "assistant", "content": "A1", "tool_calls": None}, {"role": "user", "content": "Q2"}],
    ],
)  # fmt: skip
def test_of_messages_the_last_of_the_user_is_the_question(prompt, tmp_path):
    (found,) = loaded(tmp_path, [{"prompt": prompt, "answer": "1"}], question="prompt").questions
    assert found.text == "Q2"
    assert found.context == (Message("system", "Be brief."), Message("user", "Q1"), Message("assistant", "A1"))


def test_messages_from_parquet_and_their_prefix(tmp_path):
    rows = [{"prompt": chat(("user", "Solve: Q?\nDone.")), "answer": "1"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    source = SourceConfig(
        kind="table", path=str(tmp_path), question="prompt", strip_prefix="Solve: ", strip_suffix="\nDone."
    )
    (found,) = load(source).questions
    assert (found.text, found.context) == ("Q?", ())


def test_the_same_question_in_another_context_is_another_question(tmp_path):
    rows = [
        {"prompt": chat(("system", system), ("user", "Q?")), "answer": answer}
        for system, answer in (("a", "1"), ("b", "2"), ("a", "1"))
    ]
    found = loaded(tmp_path, rows, question="prompt")
    assert [one.truth.answer for one in found.questions] == ["1", "2"] and not found.conflicts


def test_messages_that_cannot_be_asked(tmp_path):
    def said(*messages):
        return sentence(tmp_path, [{"prompt": list(messages), "answer": "1"}], question="prompt")

    assert "no user message" in said(*chat(("system", "s"), ("assistant", "a")))
    assert "no question" in said(*chat(("user", " ")))
    assert "role 'tool'" in said(*chat(("tool", "x"), ("user", "Q")))
    assert "not text" in said({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]})
    assert "a list, not a text" in said("Q")


WHERE = [
    {"question": f"Q{n}", "answer": "1", "lang": lang, "level": n, "meta": json.dumps({"ok": n < 2}), "tags": tags,
     "prompt": chat(("user", "x"))}
    for n, (lang, tags) in enumerate([("en", ["a"]), ("de", ["a", "b"]), (None, []), ("fr", ["b"])])
]  # fmt: skip


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("{lang: en}", [0]), ("{lang: [en, fr]}", [0, 3]), ("{lang: null}", [2]), ("{lang: [null, de]}", [1, 2]),
        ("{level: 2}", [2]), ("{level: [1, 3], lang: de}", [1]), ("{meta.ok: true}", [0, 1]), ("{tags: b}", [1, 3]),
        ("{prompt.0.role: user, level: 0}", [0]), ("{level: '3'}", [3]),
    ],
)  # fmt: skip
def test_rows_are_chosen_by_columns(where, found, tmp_path):
    chosen = compose_config(["data=table", "data.train.path=x", f"data.train.where={where}"]).data.train.where
    assert texts(tmp_path, WHERE, where=chosen) == [f"Q{n}" for n in found]


def test_a_filter_that_nothing_passes(tmp_path):
    for where, written in (
        ({"lang": "xx"}, "{lang: xx}"),
        ({"lang": ("xx", None), "level": 9}, "{lang: [xx, null], level: 9}"),
        ({"question": None}, "{question: null}"),
    ):
        expected = f"data.train.where={written}: of 4 rows none has these values. Change it."
        assert sentence(tmp_path, WHERE, where=where) == expected
    said = sentence(tmp_path, WHERE, where={"language": "en"})
    assert "no column 'language'" in said and "data.train.where" in said


def test_rows_without_question_or_answer_are_counted_and_named(tmp_path):
    rows = [
        {"question": "Q1", "answer": "1"}, {"question": "  \n", "answer": "1"}, {"question": "Q3", "answer": None},
        {"answer": "1"}, {"question": "Q5", "answer": ""}, {"question": "Q6"}, {"question": None, "answer": "1"},
    ]  # fmt: skip
    found = loaded(tmp_path, rows)
    assert [one.text for one in found.questions] == ["Q1"] and found.rows == 7
    assert [(one.place, one.reason) for one in found.dropped] == [
        ("line 2 of rows.jsonl", "no question"), ("line 3 of rows.jsonl", "no answer"),
        ("line 4 of rows.jsonl", "no column 'question'"), ("line 5 of rows.jsonl", "no answer"),
        ("line 6 of rows.jsonl", "no column 'answer'"), ("line 7 of rows.jsonl", "no question"),
    ]  # fmt: skip
    assert "2 rows dropped: no answer (line 3 of rows.jsonl, line 5 of rows.jsonl)" in found.notes


@pytest.mark.parametrize("row", [{"question": "Q", "answer": True}, {"question": False, "answer": "1"}])
def test_a_boolean_is_an_error_that_names_the_row(row, tmp_path):
    said = sentence(tmp_path, [{"question": "Q0", "answer": "1"}, row])
    assert "line 2 of rows.jsonl" in said and "a boolean" in said


def test_text_that_says_true_is_an_answer(tmp_path):
    assert loaded(tmp_path, [{"question": "Q", "answer": "True"}]).questions[0].truth.answer == "True"


@pytest.mark.parametrize(
    ("name", "keys", "count"),
    [
        ("svamp/SVAMP.json", {"question": "{{ Body }} {{ Question }}", "answer": "Answer"}, 1000),
        ("aime/orz_aime2024.json", {"question": "prompt", "answer": "final_answer"}, 30),
        ("math500/orz_math500.json", {"question": "prompt", "answer": "final_answer"}, 500),
        ("minerva/deepscaler_minerva.json", {"question": "problem", "answers": "any"}, 272),
        ("olympiadbench/deepscaler_olympiad_bench.json", {"question": "problem", "tolerance": "error"}, 675),
        ("gsm8k/test.jsonl", {"answer_pattern": "#### (.+)"}, 1319),
        ("amc/aimo-validation-amc.jsonl", {}, 83),
    ],
)
def test_public_files(name, keys, count):
    found = load(SourceConfig(kind="table", path=str(public(name)), **keys))
    assert (len(found.questions), found.notes) == (count, ())


def test_public_math_solutions_hold_their_answers():
    source = SourceConfig(
        kind="table", path=str(public("math500/simplerl_math500.jsonl")), question="problem", answer="solution",
        answer_in_box=True,
    )  # fmt: skip
    found = load(source).questions
    assert all(plain_form(one.truth.answer) == plain_form(one.columns["answer"]) for one in found)


def test_options_in_a_csv_file_are_json_text(tmp_path):
    (tmp_path / "q.csv").write_text('question,choices,answer\nWhich?,"[""red"", ""blue""]",B\n')
    source = SourceConfig(
        kind="table", path=f"{tmp_path}/q.csv", question="{{ question }} {{ choices | lettered }}", options="choices"
    )
    (question,) = load(source).questions
    assert question.text == "Which? A. red\nB. blue"
    assert question.truth.options == ("red", "blue")
