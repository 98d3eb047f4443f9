"""`mel score`: what a line may say, what is refused, and where Math-Verify differs."""

import csv
import gzip
import json
from dataclasses import replace

import pytest

from mel_ray.cli.mel import main
from mel_ray.cli.score_lines import Defaults, read_lines, rules_of
from mel_ray.config.schema import SourceConfig
from mel_ray.data.golds import truth_of
from mel_ray.records.question import Truth
from mel_ray.rewards.functions import Judgement

GOOD = {"response": "\\boxed{1}", "answer": "1"}


def polite(responses):
    """A custom reward for the test: reads a column of the line, and names a part."""
    return [Judgement(one.columns["right"], parts={"polite": 0.5}) for one in responses]


def lines_of(tmp_path, rows, **defaults):
    file = tmp_path / "in.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return read_lines(file, Defaults(**defaults))


def judged(tmp_path, rows, *options):
    file, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    assert main(["score", "--input", str(file), "--output", str(output), *options]) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]


@pytest.mark.parametrize(
    ("said", "answers", "truth"),
    [
        ({"answer": 142.0}, "all", ("142.0", ())),
        ({"answer": 7}, "all", ("7", ())),
        ({"answer": 1e-7}, "all", ("0.0000001", ())),
        ({"answer": ["1", 2]}, "all", ("1, 2", ())),
        ({"answer": ["1", 2]}, "any", ("1", ("2",))),
        ({"answer": ["1"], "alternatives": ["one", 1.0]}, "any", ("1", ("one", "1.0"))),
        ({"answer": "1", "alternatives": "one"}, "all", ("1", ("one",))),
        ({"answer": "1", "alternatives": None}, "all", ("1", ())),
    ],
)
def test_answers_and_alternatives(tmp_path, said, answers, truth):
    (line, _) = lines_of(tmp_path, [GOOD | said, GOOD], answers=answers)
    assert (line.question.truth.answer, line.question.truth.alternatives) == truth


@pytest.mark.parametrize("said", [["red", "blue"], {"A": "red", "B": "blue"}, {"b": "blue", "a": "red"}])
def test_options_are_a_list_or_have_letters(tmp_path, said):
    (line, _) = lines_of(tmp_path, [GOOD | {"options": said}, GOOD])
    assert line.question.truth.options == ("red", "blue")


def test_rules_and_tolerance_of_a_line(tmp_path):
    said = [{"extract": ["hashes"], "tolerance": 0.5}, {"extract": "boxed, hashes", "tolerance": "1e-3"}, {}]
    first, second, third = lines_of(tmp_path, [GOOD | one for one in said], rules=("choice_letter",))
    assert (first.rules, second.rules, third.rules) == (("hashes",), ("boxed", "hashes"), ("choice_letter",))
    assert [line.question.truth.tolerance for line in (first, second, third)] == [0.5, 0.001, 0.0]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"tolerance": "x"}, "the tolerance is 'x', not a number"),
        ({"tolerance": -1}, "the tolerance is -1, not a number of at least 0"),
        ({"tolerance": [float("nan")]}, "the tolerance is [nan]"),
        ({"tolerance": 10**400}, "the tolerance is 1000"),
        ({"tolerance": True}, "the tolerance is True"),
        ({"tolerance": [1, "x"]}, "the tolerance is [1, 'x']"),
        ({"options": 3}, "the options are"),
        ({"options": ["one"]}, "there is 1 option;"),
        ({"options": {"label": 3, "text": "x"}}, "not two lists of one length"),
        ({"options": {"A": "x", "C": "y"}}, "labelled A, C; they must be A, B, C"),
        ({"extract": "box"}, "there is no rule 'box'; there are: boxed"),
        ({"extract": 5}, "the extraction rules are 5"),
        ({"extract": []}, "no extraction rule is named"),
        ({"answer": True}, "boolean"),
        ({"answer": None}, "no answer"),
        ({"answer": " "}, "no answer"),
        ({"answer": []}, "no answer (the list is empty)"),
        ({"answer": {"a": 1}}, "the answer is an object"),
        ({"alternatives": {"a": 1}}, "the alternatives is an object"),
        ({"response": None}, "the response is None, not a text"),
        ({"response": ["x"]}, "the response is ['x'], not a text"),
    ],
)
def test_a_bad_value_is_one_sentence_with_its_line(tmp_path, capsys, said, why):
    file = tmp_path / "in.jsonl"
    file.write_text("\n\n".join(json.dumps(row) for row in (GOOD, GOOD | said)))
    assert main(["score", "--input", str(file), "--output", str(tmp_path / "out.jsonl")]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert f"{file}: line 3: " in sentence
    assert why in sentence
    assert not (tmp_path / "out.jsonl").exists()


def test_columns_of_csv_hold_json_or_commas_as_in_a_dataset(tmp_path):
    columns = {"answer": '["4", "5"]', "options": '["4", "5"]', "tolerance": "0.2,0", "extract": '["hashes"]'}
    file = tmp_path / "in.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([["response", *columns, "alternatives"], ["x", *columns.values(), '["six", "seven"]']])
    (line,) = read_lines(file, Defaults())
    assert line.question.truth == Truth("4, 5", ("six", "seven"), (0.2, 0.0), ("4", "5"))
    assert line.rules == ("hashes",)
    source = SourceConfig(kind="table", question="response", options="options", tolerance="tolerance")
    assert truth_of(line.columns, source) == replace(line.question.truth, alternatives=())


@pytest.mark.parametrize("given", [[0.2, 0], "[0.2, 0]", "0.2,0", " 0.2 , 0 "])
def test_several_tolerances_are_read_alike_everywhere(tmp_path, given):
    (line, _) = lines_of(tmp_path, [GOOD | {"tolerance": given}, GOOD])
    source = SourceConfig(kind="table", tolerance="tolerance")
    assert line.question.truth.tolerance == truth_of(line.columns, source).tolerance == (0.2, 0.0)


@pytest.mark.parametrize("given", [None, "", " ", float("nan")])
def test_no_tolerance_is_zero(tmp_path, given):
    assert lines_of(tmp_path, [GOOD | {"tolerance": given}, GOOD])[0].question.truth.tolerance == 0.0


def test_a_function_needs_no_answer(tmp_path, capsys):
    rows = [{"response": "x", "right": True}, {"response": "x", "right": True, "answer": None}]
    found = judged(tmp_path, rows, "--function", "tests.unit.test_score:polite")
    assert [row["verdict"] for row in found] == ["correct", "correct"]
    found = judged(tmp_path, rows[:1], "--function", "tests.unit.test_score:polite")
    assert [row["verdict"] for row in found] == ["correct"]
    file = tmp_path / "in.jsonl"
    assert main(["score", "--input", str(file), "--output", str(tmp_path / "other.jsonl")]) == 2
    assert "line 1: it lacks 'answer'" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["boxed,", ",", "", "nothing"])
def test_rules_that_there_are_not(given):
    with pytest.raises(ValueError, match="there is no rule"):
        rules_of(given)


def test_lines_are_judged_by_what_they_say(tmp_path, capsys):
    rows = [
        {"response": "#### 3.14", "answer": 3.1, "tolerance": 0.05, "extract": "hashes", "id": 7},
        {"response": "\\boxed{4}", "answer": "5"},
        {"response": "lone \ud800 and \u0000 \\boxed{1}", "answer": "1"},
        {"response": "x" * 10**6 + "\\boxed{" + "9" * 10**5 + "}", "answer": "5"},
    ]
    found = judged(tmp_path, rows)
    assert [row["verdict"] for row in found] == ["correct", "wrong", "correct", found[3]["verdict"]]
    assert found[3]["verdict"] in ("wrong", "no_answer")
    assert (found[0]["id"], found[0]["extracted"]) == (7, "3.14")
    assert found[2]["response"] == rows[2]["response"]
    assert capsys.readouterr().out.startswith("correct 2  ")


def test_a_custom_function_reads_the_line_and_its_parts_are_in_the_output(tmp_path):
    rows = [{"response": "x", "answer": None, "right": is_right} for is_right in (True, False)]
    found = judged(tmp_path, rows, "--function", "tests.unit.test_score:polite")
    assert [(row["verdict"], row["reward"]) for row in found] == [("correct", 1.5), ("wrong", 0.5)]
    assert found[0]["parts"] == {"correct": 1.0, "polite": 0.5}


def test_disagreements_are_printed_and_counted(tmp_path, capsys):
    rows = [GOOD, {"response": "it is $7$", "answer": "7"}, {"response": "\\boxed{2}", "answer": "1"}, GOOD]
    found = judged(tmp_path, rows, "--disagree")
    assert [row["math_verify"] for row in found] == ["correct", "correct", "wrong", "correct"]
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "line 2 of in.jsonl: gold '7', extracted 'nothing': no_answer, Math-Verify: correct",
        "correct 2  no_answer 1  wrong 1",
        "Math-Verify differs on 1 of 4",
    ]


def test_other_files_are_read_too(tmp_path):
    array, packed, output = tmp_path / "in.json", tmp_path / "in.jsonl.gz", tmp_path / "out.jsonl.gz"
    array.write_text(json.dumps([GOOD, GOOD], indent=1))
    packed.write_bytes(gzip.compress(f"{json.dumps(GOOD)}\n{json.dumps(GOOD)}\n".encode()))
    for file in (array, packed):
        assert main(["score", "--input", str(file), "--output", str(output)]) == 0
        assert len(gzip.decompress(output.read_bytes()).splitlines()) == 2


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--output", "{input}"], "is the input"),
        (["--output", "{folder}/no/out"], "cannot write"),
        (["--output", "{folder}/out", "--deadline", "0"], "--deadline: 0 is not"),
        (["--output", "{folder}/out", "--answers", "some"], "--answers: invalid choice"),
        (["--output", "{folder}/out", "--function", "no.such:f"], "--function: the module"),
        (["--output", "{folder}/out", "--extract", "x"], "--extract: there is no rule"),
    ],
)
def test_what_is_refused(tmp_path, capsys, options, why):
    file = tmp_path / "in.jsonl"
    file.write_text(json.dumps(GOOD) + "\n")
    before = file.read_text()
    words = [word.format(input=file, folder=tmp_path) for word in options]
    assert main(["score", "--input", str(file), *words]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert why in sentence
    assert [one.name for one in tmp_path.iterdir()] == ["in.jsonl"]
    assert file.read_text() == before


def test_an_interrupted_run_leaves_no_half_file(tmp_path, monkeypatch):
    file, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD))
    output.write_text("of before")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mel_ray.rewards.verifier.Verifier.judge_all", interrupt)
    assert main(["score", "--input", str(file), "--output", str(output)]) == 130
    assert output.read_text() == "of before"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]
