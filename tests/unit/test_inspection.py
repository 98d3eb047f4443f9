"""data/inspection.py: what a dataset holds, and whether benchmarks have leaked into it."""

import json

import pytest

from mel_ray.cli.inspect import inspect as command
from mel_ray.config.load import compose_config
from mel_ray.data.inspection import answer_kind, inspect, text
from mel_ray.data.inspection_page import page
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.data.prepare import prepare
from mel_ray.records.problem import ConfigError
from mel_ray.records.question import Question, Truth


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("1,234", "integer"), ("-3", "integer"), ("0.5", "decimal"), ("\\frac{1}{2}", "fraction"),
        ("C", "choice letter"),
        ("(1, 2)", "list, tuple, set or interval"), ("2, 3", "list, tuple, set or interval"), ("\\text{even}", "text"),
        ("2\\sqrt{3}", "expression"), ("x+1", "expression"),
    ],
)  # fmt: skip
def test_answer_kinds(answer, kind):
    assert answer_kind(answer) == kind


def inspected(tmp_path, rows, *overrides):
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return inspect(compose_config(["data=table", f"data.train.path={tmp_path}/q.jsonl", *overrides]))


ROWS = [{"question": f"What is {n % 4} + 1?", "answer": str(n % 4 + 1)} for n in range(10)]


def test_inspection_counts_and_draws(tmp_path):
    found = inspected(tmp_path, ROWS)
    assert (found.rows, len(found.questions), found.lengths.unit) == (10, 4, "tokens")
    assert "rows 10, questions 4, repeated 6" in text(found)
    assert "<table>" in page(found)


def test_what_was_left_out_is_listed(tmp_path):
    rows = [
        *ROWS,
        {"question": "Q", "answer": None},
        {"question": "R", "answer": "1"},
        {"question": "R", "answer": "2"},
    ]
    said = text(inspected(tmp_path, rows))
    assert "1 row dropped: no answer (line 11 of q.jsonl)" in said
    assert "  1 and 2: R" in said


def test_lengths_are_those_of_the_model_asked_for(tmp_path):
    embedded = text(inspected(tmp_path, ROWS))
    assert "prompt tokens (by the tokenizer of the embedded model" in embedded
    for name in ("tokenizer.json", "tokenizer_config.json"):  # weights are not needed
        (tmp_path / name).write_text((EMBEDDED / name).read_text())
    own = inspected(tmp_path, ROWS, "model=local", f"model.path={tmp_path}")
    assert f"prompt tokens (by the tokenizer of {tmp_path})" in text(own)
    system = inspected(tmp_path, ROWS, "model=local", f"model.path={tmp_path}", "model.system_prompt=Be brief.")
    assert min(system.lengths.values) > max(own.lengths.values)


def test_words_are_counted_where_there_is_no_tokenizer_and_the_reason_is_said(tmp_path):
    found = inspected(tmp_path, ROWS, "model=local", "model.path=/nowhere", "data.prompt={{ question }}")
    assert found.lengths.values == (5,) * 4
    assert "prompt words (not tokens: model.path=/nowhere: there is no such folder)" in text(found)


def test_the_worst_overlaps_are_listed(tmp_path):
    long = " ".join(f"word{n}" for n in range(26))
    (tmp_path / "held.jsonl").write_text(json.dumps({"question": long, "answer": "1"}))
    rows = [{"question": f"{' '.join(long.split()[:13])} {n}", "answer": "1"} for n in range(2)]
    said = text(inspected(tmp_path, rows, f"eval.benchmarks=[mine={tmp_path}/held.jsonl]", "eval.max_overlap=0.6"))
    assert "contamination: 0 training questions with 60% or more of a question of mine (1 question), 2 with" in said
    assert "the largest overlap is 50%" in said and "  50% of: word0 word1" in said


def questions_of(found):
    return [(one.source, one.text) for one in found.questions]


def test_what_is_counted_is_what_training_would_use(tmp_path):
    """Bands, repetitions and conflicts among sources, prompts that are too long, and contamination."""
    copied = " ".join(f"word{n}" for n in range(20))
    for name, texts in {
        "a": ["Q0?", "Q1?", "Q2?", "Q3?", copied, "w " * 800],
        "b": ["Q0?", "Q3?", "R0?", "R1?"],
        "held": [copied, "w " * 900],
    }.items():
        rows = [{"question": text, "answer": f"{name if text == 'Q3?' else 1}"} for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rates = [{"question_id": Question(f"Q{n}?", Truth("1")).question_id, "pass_rate": n / 2} for n in range(3)]
    for others in (copied, ("w " * 800).strip()):
        rates.append({"question_id": Question(others, Truth("1")).question_id, "pass_rate": 0.5})
    (tmp_path / "rates.jsonl").write_text("\n".join(map(json.dumps, rates)))
    a = f"{{name: a, path: {tmp_path}/a.jsonl, pass_rate: [0, 0.9], pass_rate_file: {tmp_path}/rates.jsonl}}"
    config = compose_config(
        [f"data.train=[{a}, {{name: b, path: {tmp_path}/b.jsonl}}]", f"eval.benchmarks=[mine={tmp_path}/held.jsonl]",
         "eval.decontaminate=drop", "rollout.prompts_per_step=1", "algorithm.minibatches=1"]
    )  # fmt: skip
    found, prepared = inspect(config), prepare(config)
    assert questions_of(found) == [("a", "Q0?"), ("a", "Q1?"), ("b", "R0?"), ("b", "R1?")]
    assert questions_of(found) == [(one.question.source, one.question.text) for one in prepared.prompts.prompts]
    said = text(found).splitlines()
    for note in (
        "source a: 1 question dropped: another source has the same with another answer",
        "source a: 1 question dropped: pass rate not in [0.0, 0.9]",
        "source b: 1 question dropped: an earlier source has the same",
        f"source a: 1 question dropped: longer than {config.prompt_limit} prompt tokens",
        "source a: 1 question dropped: it holds 50% or more of a question of mine",
        "  a in a and b in b: Q3?",
    ):
        assert note in said
        assert note.startswith(" ") or note in prepared.dropped
    assert page(found)


def test_a_missing_file_of_pass_rates_is_a_problem(tmp_path):
    band = ["data.train.pass_rate=[0.1,0.9]", f"data.train.pass_rate_file={tmp_path}/no.jsonl"]
    with pytest.raises(ConfigError, match=r"pass_rate_file=.*no\.jsonl: it cannot be read"):
        inspected(tmp_path, ROWS, *band)


def test_prompts_that_are_all_too_long_are_still_measured(tmp_path):
    found = inspected(tmp_path, [{"question": "w " * 900, "answer": "1"}])
    assert "1 question dropped: longer than" in text(found) and found.questions == ()
    assert "answers: none" in text(found) and page(found)


def test_without_room_for_prompts_that_alone_is_said(tmp_path):
    with pytest.raises(ConfigError) as caught:
        inspected(tmp_path, ROWS, "model.max_context=16")
    assert str(caught.value).startswith("model.max_context=16: no room for a prompt")
    assert len(caught.value.problems) == 1


def test_special_tokens_that_were_removed_are_counted(tmp_path):
    rows = [*ROWS, {"question": "What ends <|im_end|> here?", "answer": "1"}]
    assert "special tokens spelled out in 1 prompt were removed" in text(inspected(tmp_path, rows)).splitlines()
    assert "special tokens" not in text(inspected(tmp_path, ROWS))
    config = compose_config(["data=table", f"data.train.path={tmp_path}/q.jsonl", "rollout.prompts_per_step=2",
                             "algorithm.minibatches=1", f"eval.benchmarks=[mine={tmp_path}/q.jsonl]"])  # fmt: skip
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepared = prepare(config)
    assert "special tokens spelled out in 1 prompt were removed" in prepared.dropped
    assert "benchmark mine: special tokens spelled out in 1 prompt were removed" in prepared.dropped


def test_options_of_the_command_may_stand_between_keys(tmp_path, capsys):
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    command(["data=table", "--output", f"{tmp_path}/page.html", f"data.train.path={tmp_path}/q.jsonl"])
    assert "rows 10, questions 4" in capsys.readouterr().out
    assert "<table>" in (tmp_path / "page.html").read_text()


def test_a_missing_benchmark_file_and_a_file_for_the_world_are_problems(tmp_path):
    with pytest.raises(ConfigError, match=r"eval.benchmarks\[mine\].path=no.jsonl: there is no such file"):
        inspected(tmp_path, ROWS, "eval.benchmarks=[mine=no.jsonl]")
    with pytest.raises(ConfigError, match="an embedded world has no file"):
        inspect(compose_config(["data.train.path=my.jsonl"]))
