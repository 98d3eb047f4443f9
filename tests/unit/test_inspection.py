"""data/inspection.py: what a dataset holds, and whether benchmarks have leaked into it."""

import json

import pytest

from mel_ray.cli.inspect import inspect as command
from mel_ray.config.load import compose_config
from mel_ray.data.inspection import answer_kind, inspect, text
from mel_ray.data.inspection_page import page
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.records.problem import ConfigError


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
    assert found.lengths.values == (5,) * 4 and found.too_long == 0
    assert "prompt words (not tokens: there is no model folder /nowhere)" in text(found)


def test_the_worst_overlaps_are_listed(tmp_path):
    long = " ".join(f"word{n}" for n in range(26))
    (tmp_path / "held.jsonl").write_text(json.dumps({"question": long, "answer": "1"}))
    rows = [{"question": f"{' '.join(long.split()[:13])} {n}", "answer": "1"} for n in range(2)]
    said = text(inspected(tmp_path, rows, f"eval.benchmarks=[mine={tmp_path}/held.jsonl]", "eval.max_overlap=0.6"))
    assert "contamination: 0 training questions hold 60% or more of a question of mine (1 questions), 2 share" in said
    assert "the largest overlap is 50%" in said and "  50% of: word0 word1" in said


def test_options_of_the_command_may_stand_between_keys(tmp_path, capsys):
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    command(["data=table", "--output", f"{tmp_path}/page.html", f"data.train.path={tmp_path}/q.jsonl"])
    assert "rows 10, questions 4" in capsys.readouterr().out
    assert "<table>" in (tmp_path / "page.html").read_text()


def test_a_missing_benchmark_file_and_a_file_for_the_world_are_problems(tmp_path):
    with pytest.raises(ConfigError, match=r"eval.benchmarks\[mine\].path=no.jsonl: there is no such file"):
        inspected(tmp_path, ROWS, "eval.benchmarks=[mine=no.jsonl]")
    with pytest.raises(ConfigError, match="the embedded world has no file"):
        inspect(compose_config(["data.train.path=my.jsonl"]))
