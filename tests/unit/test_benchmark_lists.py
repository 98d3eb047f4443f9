"""eval.benchmarks from the command line: shipped names, name=path, full entries."""

import re
import shlex
from pathlib import Path

import pytest

from mel_ray.cli.evaluate import parse
from mel_ray.config.checks import find_problems
from mel_ray.config.load import compose_config, continued_config, to_yaml
from mel_ray.records.problem import ConfigError

DATA_PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"


def benchmarks(text):
    return [(one.name, one.source) for one in compose_config([text]).eval.benchmarks]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[mine=my.jsonl]", [("mine", "my.jsonl")]),
        ("[a=x/y.json.gz,b=../z.parquet]", [("a", "x/y.json.gz"), ("b", "../z.parquet")]),
        ("[my-set.v2=~/my file.csv]", [("my-set.v2", "~/my file.csv")]),
        ("[ mine=/data/größe_1.jsonl , b=c ]", [("mine", "/data/größe_1.jsonl"), ("b", "c")]),
        ("['mine=a,b(1).jsonl']", [("mine", "a,b(1).jsonl")]),
        ("[mine=a=b.jsonl]", [("mine", "a=b.jsonl")]),
        ("[{name: mine, path: my.jsonl}, b=c.csv]", [("mine", "my.jsonl"), ("b", "c.csv")]),
        ("[{name: mine, source: {path: my.jsonl}}]", [("mine", "my.jsonl")]),
        ("[aime24,mine=my.jsonl]", [("aime24", "HuggingFaceH4/aime_2024"), ("mine", "my.jsonl")]),
    ],
)
def test_files_of_ones_own(text, found):
    given = benchmarks(f"eval.benchmarks={text}")
    assert [(name, source.path) for name, source in given] == found
    assert all(source.kind == "table" and not source.deduplicate for _, source in given)


def test_an_entry_takes_the_keys_of_a_source():
    ((_, mine),) = benchmarks('eval.benchmarks=[{name: mine, path: a.json, question: "{{ a }} {{ b }}", answers: any}]')
    assert (mine.question, mine.answers) == ("{{ a }} {{ b }}", "any")
    ((name, shipped),) = benchmarks("eval.benchmarks=[{name: math500, limit: 10}]")
    assert (name, shipped.path, shipped.question, shipped.limit) == ("math500", "HuggingFaceH4/MATH-500", "problem", 10)
    ((_, own),) = benchmarks("eval.benchmarks=[{name: math500, path: my.jsonl}]")
    assert (own.path, own.question) == ("my.jsonl", "question")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[aime42]", "there are: aime24, aime25, amc23"),
        ("[aime42]", 'a file of your own is given as name=path, e.g. "eval.benchmarks=[mine=my.jsonl]"'),
        ("[my.jsonl]", "Write my=my.jsonl"),
        ("[./data/my set.json.gz]", "Write my_set=./data/my set.json.gz"),
        ("mine=my.jsonl", "Write eval.benchmarks=[mine=my.jsonl]"),
        ("[{path: my.jsonl}]", "this entry has no name"),
        ("['=x/a.jsonl']", "eval.benchmarks==x/a.jsonl: this entry has no name. Write a=x/a.jsonl."),
        ("['a=']", "eval.benchmarks=a=: this entry has no path. Write a=my.jsonl."),
        ("['=']", "this entry has no path. Write mine=my.jsonl."),
        ("[[aime24]]", "a list cannot be an entry. Put all entries into one list."),
        ("[{name: [a]}]", "there is no such benchmark"),
        ("[null]", "there is no such benchmark"),
        ("''", "this is a list. Write eval.benchmarks=[]."),
        ("{a: b}", "`mel keys eval.benchmarks` prints what it takes"),
        ("[{name: mine, path: my.jsonl, limit: 0}]", "eval.benchmarks[mine].limit=0: input should be"),
        ("[{name: mine, source: [b]}]", "Write {name: mine, path: my.jsonl}"),
        ("[{name: mine}]", "there is no such benchmark"),
        ("[{name: mine, source: my.jsonl}]", "Write {name: mine, path: my.jsonl}"),
        ("[{name: mine, path: my.jsonl, quest: q}]", "Did you mean 'question'?"),
    ],
)
def test_what_is_not_understood_is_a_sentence(text, why):
    with pytest.raises(ConfigError) as caught:
        compose_config([f"eval.benchmarks={text}"])
    assert why in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_names_are_those_of_metrics_and_stand_once():
    def problems(text):
        return [str(problem) for problem in find_problems(compose_config([f"eval.benchmarks={text}"]))]

    (named,) = problems("['a b=c.jsonl']")
    assert named.startswith("eval.benchmarks[a b].name='a b': the name stands in metrics")
    assert any("named twice" in one for one in problems("[a=b.jsonl,a=c.jsonl]"))
    assert problems("[a=b.jsonl,b=c.jsonl]") == []


def test_a_stored_run_and_the_evaluate_command_take_the_same_words(tmp_path):
    stored = tmp_path / "config.yaml"
    stored.write_text(to_yaml(compose_config(["eval.benchmarks=[mine=my.jsonl]"])))
    assert [one.name for one in continued_config(stored, []).eval.benchmarks] == ["mine"]
    assert [one.name for one in continued_config(stored, ["eval.benchmarks=[b=c.csv]"]).eval.benchmarks] == ["b"]
    (tmp_path / "my.jsonl").write_text('{"question": "Q", "answer": "1"}')
    (job,), _ = parse(["model=tiny", f"benchmarks=world_heldout,mine={tmp_path}/my.jsonl"])
    assert [one.name for one in job.prepared.benchmarks] == ["world_heldout", "mine"]
    assert job.prepared.benchmarks[1].prompts[0].question.source == "mine"


def shown_commands():
    text = DATA_PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(r"^    (mel (?:check|train|inspect) .*)$", text, re.MULTILINE)


@pytest.mark.parametrize("command", shown_commands())
def test_the_commands_of_the_data_page_compose(command):
    config = compose_config(shlex.split(command)[2:])
    assert find_problems(config) == []


def test_there_are_such_commands():
    assert len(shown_commands()) >= 6
