"""data.train as one source or a list of sources: configuration, loading, and what is said about what was left out."""

import json

import pytest
import yaml

from mel_ray.cli.check import checked_and_prepared
from mel_ray.config.checks import find_problems
from mel_ray.config.keys import known_keys
from mel_ray.config.load import compose_config, continued_config, to_yaml, validate
from mel_ray.config.templates import CONF_DIR
from mel_ray.records.problem import ConfigError
from tests.unit.builders import config_of
from tests.unit.public_data import public

TWO = "data.train=[{name: gsm, path: a.jsonl, weight: 2}, {name: mine, kind: table, path: b.jsonl}]"


def write(path, *rows: tuple[str, str]) -> str:
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows))
    return str(path)


def questions(path, name: str, count: int) -> str:
    return write(path, *((f"{name} {n}?", str(n)) for n in range(count)))


def sentence(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose_config(overrides)
    return str(caught.value)


def problems_of(*overrides: str) -> str:
    return "\n".join(map(str, find_problems(compose_config(overrides))))


# -- configuration


@pytest.mark.parametrize("data", [[], ["data=table"], ["data=tables"], ["data=gsm8k"]])
def test_an_override_may_replace_one_source_by_a_list(data):
    sources = compose_config([*data, TWO]).data.sources
    assert [(one.name, one.kind, one.path, one.weight) for one in sources] == [
        ("gsm", "table", "a.jsonl", 2.0),
        ("mine", "table", "b.jsonl", 1.0),
    ]
    assert {one.hub_files for one in sources} == {"*.parquet"}  # nothing is left of the source that was there


def test_one_source_is_what_it_was():
    data = compose_config(["data=table", "data.train.path=a.jsonl", "data.train.limit=3"]).data
    assert data.sources == (data.train,)
    assert (data.train.path, data.train.limit, data.train.name) == ("a.jsonl", 3, "train")
    assert data.source_key(data.train) == "data.train"
    assert "data.train.weight" in known_keys()


def test_a_list_survives_the_stored_configuration(tmp_path):
    config = compose_config([TWO])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert validate(yaml.safe_load(to_yaml(config))) == config
    assert continued_config(tmp_path / "config.yaml", ["run.steps=7"]).data == config.data
    replaced = continued_config(tmp_path / "config.yaml", ["data.train=[{name: other, count: 9}]"])
    assert [one.name for one in replaced.data.sources] == ["other"]
    with pytest.raises(ConfigError, match=r"data.train.limit=3: data.train is a list"):
        continued_config(tmp_path / "config.yaml", ["data.train.limit=3"])


def test_a_stored_configuration_of_one_source_without_the_new_keys_can_be_read():
    stored = yaml.safe_load(to_yaml(compose_config([])))
    for key in ("name", "weight", "prompt", "pass_rate", "pass_rate_file"):
        del stored["data"]["train"][key]
    assert validate(stored).data == compose_config([]).data


def test_a_file_of_ones_own_may_hold_the_list(tmp_path):
    import shutil

    conf = tmp_path / "conf"
    shutil.copytree(CONF_DIR, conf)
    (conf / "data" / "mine.yaml").write_text("defaults: [tables]\ntrain:\n  - {name: a, path: x}\n  - {name: b}\n")
    assert [one.name for one in compose_config(["data=mine"], conf).data.sources] == ["a", "b"]
    with pytest.raises(ConfigError, match="each entry has its own keys"):
        compose_config(["data=mine", "data.train.limit=3"], conf)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.train=[]", "data.train=[]: this list needs at least one source."),
        ("data.train=[{name: a, wieght: 3}]", "data.train[a].wieght: there is no such key. Did you mean 'weight'?"),
        ("data.train=[{name: a}, {name: b, colums: 3}]", "data.train[b].colums: there is no such key."),
        ("data.train=[{name: a, weight: 0}]", "data.train[a].weight=0: input should be greater than 0."),
        ("data.train=[{name: a, weight: -1}]", "data.train[a].weight=-1: input should be greater than 0."),
        ("data.train=[{name: a, weight: nan}]", "data.train[a].weight=nan: input should be"),
        ("data.train=[3]", "data.train[0]=3: an entry of this list is a mapping."),
        (
            "data.train=[s1.jsonl,{name: b, path: b.csv}]",
            "data.train[0]=s1.jsonl: an entry of this list is a mapping. Write {name: s1, path: s1.jsonl}.",
        ),
        (
            "data.train=['a=x/s1.jsonl']",
            "data.train[0]=a=x/s1.jsonl: an entry of this list is a mapping. Write {name: a,",
        ),
        ("data.train=s1.jsonl", "data.train=s1.jsonl: this is a section. Write data=table data.train.path=s1.jsonl."),
        ("data.train=[{path: x, limit: 0}]", "data.train[0].limit=0: input should be"),
        ("data.train=[{name: null, path: x}]", "data.train[0].name: input should be"),
        ("data.train.wieght=3", "data.train.wieght: there is no such key. Did you mean 'data.train.weight'?"),
    ],
)
def test_what_is_wrong_with_an_entry_is_one_sentence(override, told):
    found = sentence(override)
    assert found.startswith(told)
    assert len(found.splitlines()) == 1


def test_a_list_and_a_key_of_one_source_do_not_go_together():
    assert sentence(TWO, "data.train.limit=3") == (
        "data.train.limit=3: data.train is a list of sources, and each entry has its own keys. Set it in the entries."
    )


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        (
            "{count: 9, name: a}, {count: 9, name: b}, {count: 9, name: a}",
            "data.train=a: 2 sources have this name.",
        ),
        ("{count: 3}, {count: 4}", "data.train=train: 2 sources have this name."),
        ("{count: 9, name: a/b}, {count: 9, name: c}", "data.train[a/b].name='a/b': the name stands in metrics"),
        ("{count: 9, name: ''}, {count: 9, name: c}", "data.train[].name='': the name stands in metrics"),
        ("{count: 9, name: 'größe'}, {count: 9, name: c}", "the name stands in metrics"),
        (
            "{count: 9, name: 'a\nb'}, {count: 9, name: c}",
            r"data.train['a\nb'].name='a\nb': the name stands in metrics",
        ),
        ("{count: 9, answer_pattern: '####'}", "data.train[0].answer_pattern=####: it has no group."),
        (
            "{count: 9, name: a, prompt: '{{ q }}'}",
            "data.train[a].prompt={{ q }}: UndefinedError: 'q' is undefined.",
        ),
        ("{count: 9, name: a, answer_pattern: '####'}", "data.train[a].answer_pattern=####: it has no group."),
        (
            "{count: 9, name: a, pass_rate: [0.9, 0.1], pass_rate_file: f}",
            "data.train[a].pass_rate=[0.9, 0.1]: a band goes",
        ),
        (
            "{count: 9, name: a, pass_rate: [0, 1.5], pass_rate_file: f}",
            "data.train[a].pass_rate=[0.0, 1.5]: a band goes",
        ),
        ("{kind: world, name: a, pass_rate: [0, 1]}", "data.train[a].pass_rate_file: the pass rates are not known."),
        ("{kind: world, name: a, pass_rate_file: f}", "data.train[a].pass_rate_file=f: it is used for a band"),
        ("{name: a, weight: 2}", "data.train[a].path: a source of a list needs files. Name them, or say kind: world"),
    ],
)
def test_what_is_wrong_with_sources_is_one_sentence(entries, told):
    found = problems_of(f"data.train=[{entries}]")
    assert told in found
    assert len(found.splitlines()) == 1


def test_good_sources_have_no_problems():
    assert problems_of(TWO) == ""


# -- loading


def prepared(*entries: dict, **options: str):
    overrides = [f"{key.replace('__', '.')}={value}" for key, value in options.items()]
    return checked_and_prepared(config_of(f"data.train={json.dumps(entries)}", *overrides))


def told(*entries: dict, **options: str) -> str:
    with pytest.raises(ConfigError) as caught:
        prepared(*entries, **options)
    return str(caught.value)


def test_each_source_has_its_own_columns_prompt_and_name(tmp_path):
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"q": f"B {n}?", "a": n}) + "\n" for n in range(9)))
    found = prepared(
        {"name": "a", "path": questions(tmp_path / "a.jsonl", "A", 12), "weight": 3},
        {"name": "b", "path": str(tmp_path / "b.jsonl"), "question": "q", "answer": "a", "prompt": "B: {{ question }}"},
        eval__benchmarks="[]",
    )
    assert [(one.name, one.share, len(one.rendered.prompts)) for one in found.sources] == [
        ("a", 0.75, 12),
        ("b", 0.25, 9),
    ]
    assert {prompt.question.source for prompt in found.prompts.prompts} == {"a", "b"}
    texts = [found.tokenizer.decode(one.rendered.prompts[0].token_ids) for one in found.sources]
    assert "Problem: A 0?" in texts[0]
    assert "B: B 0?" in texts[1]
    assert found.dropped == []


def test_a_question_of_two_sources_counts_once_and_is_said(tmp_path):
    a = write(tmp_path / "a.jsonl", *((f"Q {n}?", str(n)) for n in range(10)))
    b = write(tmp_path / "b.jsonl", ("Q  3?", "3"), ("Q 4?", "5"), *((f"R {n}?", "1") for n in range(10)))
    found = prepared({"name": "a", "path": a}, {"name": "b", "path": b}, eval__benchmarks="[]")
    assert [len(one.rendered.prompts) for one in found.sources] == [9, 10]
    assert found.dropped == [
        "source a: 1 question dropped: another source has the same with another answer",
        "source b: 1 question dropped: an earlier source has the same",
        "source b: 1 question dropped: another source has the same with another answer",
    ]
    assert "Q 4?" not in {prompt.question.text for prompt in found.prompts.prompts}
    for first, second in (("drop", "error"), ("error", "drop"), ("keep", "error")):
        refused = told({"name": "a", "path": a, "conflicts": first}, {"name": "b", "path": b, "conflicts": second})
        assert refused == (
            f"data.train[{'a' if first == 'error' else 'b'}].conflicts=error: 1 question stands in several sources "
            "with different answers, e.g. 'Q 4?' with 4 in a and 5 in b. Mend the data, or use drop or keep."
        )
    refused = told({"name": "a", "path": a}, {"name": "b", "path": a})
    assert "data.train[b]: nothing is left: 10 questions dropped: an earlier source has the same" in refused


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        (("drop", "drop", "drop"), []),
        (("keep", "keep", "drop"), []),
        (("keep", "keep", "keep"), [("a", "1"), ("b", "2")]),
    ],
)
def test_a_question_with_several_answers_is_dropped_from_all_sources_or_kept_with_each(tmp_path, settings, left):
    entries = [
        {"name": name, "path": write(tmp_path / f"{name}.jsonl", ("Q?", answer), (f"{name}?", "7")), "conflicts": how}
        for name, answer, how in zip("abc", "121", settings, strict=True)
    ]
    found = prepared(*entries, eval__benchmarks="[]", rollout__prompts_per_step="1", algorithm__minibatches="1")
    kept = [prompt.question for prompt in found.prompts.prompts]
    assert [(one.source, one.truth.answer) for one in kept if one.text == "Q?"] == left
    assert len({one.question_id for one in kept}) == len(kept) == 3 + len(left)
    if left:
        assert "source b: 1 question kept that another source has with another answer" in found.dropped


def test_what_a_source_answers_differently_itself_no_other_source_asks(tmp_path):
    a = write(tmp_path / "a.jsonl", ("Q?", "1"), ("Q?", "2"), ("a?", "7"))
    b = write(tmp_path / "b.jsonl", ("Q?", "1"), ("b?", "7"))
    few = {"eval__benchmarks": "[]", "rollout__prompts_per_step": "1", "algorithm__minibatches": "1"}
    for first, second in (("a", "b"), ("b", "a")):
        entries = [{"name": name, "path": {"a": a, "b": b}[name]} for name in (first, second)]
        found = prepared(*entries, **few)
        assert {prompt.question.text for prompt in found.prompts.prompts} == {"a?", "b?"}
        assert "source b: 1 question dropped: another source has the same with another answer" in found.dropped


def test_other_right_answers_are_part_of_the_answer(tmp_path):
    entries = [{"name": name, "path": str(tmp_path / f"{name}.jsonl"), "answers": "any"} for name in "ab"]
    for name, answers in {"a": ["1", "one"], "b": ["1", "two"]}.items():
        rows = [{"question": "Q?", "answer": answers}, {"question": f"{name}?", "answer": "1"}]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = prepared(*entries, eval__benchmarks="[]", rollout__prompts_per_step="1", algorithm__minibatches="1")
    assert [prompt.question.text for prompt in found.prompts.prompts] == ["a?", "b?"]


def test_problems_of_all_sources_are_said_at_once(tmp_path):
    refused = told({"name": "a", "path": str(tmp_path / "x.jsonl")}, {"name": "b", "path": str(tmp_path / "y.jsonl")})
    assert "data.train[a].path" in refused
    assert "data.train[b].path" in refused
    without_model = told({"name": "a", "path": str(tmp_path / "x.jsonl")}, {"name": "b"}, model__path="/no/such")
    assert "model.path" in without_model
    assert "data.train[a].path" in without_model


def test_a_source_too_small_for_its_part_of_a_batch_is_a_sentence(tmp_path):
    small, large = questions(tmp_path / "a.jsonl", "A", 3), questions(tmp_path / "b.jsonl", "B", 50)
    refused = told({"name": "a", "path": small}, {"name": "b", "path": large})  # 8 of 16 questions
    assert refused.startswith("rollout.prompts_per_step=16: source a has only 3 usable questions, and a batch takes up")
    fitting = prepared({"name": "a", "path": small, "weight": 3}, {"name": "b", "path": large, "weight": 13})
    assert [len(one.rendered.prompts) for one in fitting.sources] == [3, 50]


def test_a_malformed_template_is_said_once():
    with pytest.raises(ConfigError) as caught:
        checked_and_prepared(config_of("data.prompt='{{ q }}'"))
    assert str(caught.value) == "data.prompt={{ q }}: UndefinedError: 'q' is undefined. Use only {{ question }}."


def test_real_sources_of_different_schemas(tmp_path):
    gsm = {"name": "gsm", "path": str(public("gsm8k/test.jsonl")), "answer_pattern": r"####\s*([^\n]+)", "limit": 200}
    svamp = {
        "name": "svamp",
        "path": str(public("svamp/SVAMP.json")),
        "question": "{{ Body }} {{ Question }}",
        "answer": "Answer",
    }
    found = prepared(gsm, svamp, eval__benchmarks="[]")
    assert [one.rendered.too_long + len(one.rendered.prompts) for one in found.sources] == [200, 1000]
    assert "Body" in found.sources[1].rendered.prompts[0].question.columns
