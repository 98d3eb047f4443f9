"""data/chat_template.py: which template counts, and what it is rendered with; the same as in Transformers."""

import json

import pytest

from mel_ray.config.load import compose_config
from mel_ray.config.schema import ModelConfig
from mel_ray.data.chat import ChatTokenizer
from mel_ray.records.problem import ConfigError
from tests.unit.tokenizer_folders import byte_level, write_folder

NAMED = [{"name": "default", "template": "config default"}, {"name": "tool_use", "template": "config tools"}]


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "model", byte_level())


def rendered(folder, **keys) -> str:
    return ChatTokenizer(folder, ModelConfig(path=str(folder), **keys)).render("Hi")


def set_config(folder, **settings) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def add_file(folder, name, text) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)


def of_transformers(folder, name=None) -> str:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    return theirs.apply_chat_template([{"role": "user", "content": "Hi"}], chat_template=name, tokenize=False)


PLACES = {
    "one in the configuration": ({"chat_template": "config one"}, {}),
    "named ones in the configuration": ({"chat_template": NAMED}, {}),
    "a file": ({}, {"chat_template.jinja": "file one"}),
    "a file over the configuration": ({"chat_template": NAMED}, {"chat_template.jinja": "file one"}),
    "files": ({}, {"chat_template.jinja": "file one", "additional_chat_templates/rag.jinja": "file rag"}),
    "all": (
        {"chat_template": NAMED},
        {"chat_template.jinja": "one", "additional_chat_templates/tool_use.jinja": "two"},
    ),
    "a legacy file is last": ({"chat_template": "config one"}, {"chat_template.json": '{"chat_template": "legacy"}'}),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_template_is_the_one_that_transformers_takes(folder, place):
    settings, files = PLACES[place]
    set_config(folder, **settings)
    for name, text in files.items():
        add_file(folder, name, text)
    assert rendered(folder) == of_transformers(folder)
    for name in ("rag", "tool_use"):
        if name in json.dumps(settings) + json.dumps(files) and place != "a file over the configuration":
            assert rendered(folder, chat_template=name) == of_transformers(folder, name)


@pytest.mark.parametrize("stored", ["legacy", NAMED])
def test_a_legacy_file_counts_where_there_is_nothing_else(folder, stored):
    add_file(folder, "chat_template.json", json.dumps({"chat_template": stored}))
    assert rendered(folder) == (stored if isinstance(stored, str) else "config default")


def test_templates_without_a_default_must_be_named(folder):
    set_config(folder, chat_template=[{"name": "rag", "template": "with rag"}, {"name": "chat", "template": "plain"}])
    with pytest.raises(ConfigError, match=r"several chat templates and no default: chat, rag. Name one of them"):
        rendered(folder)
    assert rendered(folder, chat_template="rag") == "with rag"


@pytest.mark.parametrize("own", [None, "one", NAMED])
def test_a_name_that_is_none_is_a_problem_and_not_a_prompt(folder, own):
    if own:
        set_config(folder, chat_template=own)
    with pytest.raises(ConfigError, match=r"model.chat_template=tool-use: this is neither Jinja nor the name"):
        rendered(folder, chat_template="tool-use")
    assert rendered(folder, chat_template="{{ messages[0].content }}!") == "Hi!"


@pytest.mark.parametrize("stored", [[{"template": "nameless"}], 5])
def test_templates_that_cannot_be_read_are_a_sentence(folder, stored):
    set_config(folder, chat_template=stored)
    with pytest.raises(ConfigError, match=r"chat templates in .* cannot be read"):
        rendered(folder)


@pytest.mark.parametrize(
    "text", ["{% for x in %}", "{{ messages[7].content.x }}", "{{ 1 / 0 }}", "{{ raise_exception('no') }}"]
)
def test_a_template_that_fails_is_a_sentence(folder, text):
    with pytest.raises(ConfigError, match="the chat template cannot be used"):
        rendered(folder, chat_template=text)


def test_arguments_reach_the_template_and_those_it_ignores_do_no_harm(folder):
    text = "{{ style }} {{ depth + 1 }} {% if not enable_thinking %}quiet{% endif %} {{ bos_token }}"
    keys = {"style": "dry", "depth": 2, "enable_thinking": False, "unknown": 1.5, "none": None}
    assert rendered(folder, chat_template=text, template_arguments=keys) == "dry 3 quiet <s>"
    assert rendered(folder, chat_template="{{ bos_token }}", template_arguments={"bos_token": "B"}) == "B"


@pytest.mark.parametrize("name", ["messages", "add_generation_prompt", "tools", "documents"])
def test_arguments_that_every_render_has_are_a_problem(folder, name):
    with pytest.raises(ConfigError, match=f"model.template_arguments.{name}"):
        rendered(folder, template_arguments={name: 1})


def test_arguments_are_given_on_the_command_line():
    config = compose_config(["model.template_arguments={enable_thinking: false, budget: 3, style: dry}"])
    assert config.model.template_arguments == {"enable_thinking": False, "budget": 3, "style": "dry"}
    with pytest.raises(ConfigError, match=r"model.template_arguments"):
        compose_config(["model.template_arguments={a: [1]}"])
