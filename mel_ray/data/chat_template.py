"""Chat templates: those a model folder holds, the one that is used, and its compilation.

The rules are those of Transformers, whose own function cannot be used here because it imports torch.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mel_ray.data.tokenizer_folder import read_json
from mel_ray.records.problem import ConfigError, Problem

# What a base model without a template of its own gets.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ message.content }}\n\n"
    "{% elif message.role == 'user' %}User: {{ message.content }}\n\n"
    "{% else %}Assistant: {{ message.content }}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)

RESERVED_ARGUMENTS = ("messages", "add_generation_prompt", "tools", "documents")


def find_templates(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """The templates of a model by name; a single one is called `default`.

    Files (chat_template.jinja, additional_chat_templates/*.jinja) count before tokenizer_config.json, and
    chat_template.json, which belongs to processors, only where there is nothing else.
    """
    found = _by_name(settings.get("chat_template"))
    if (folder / "chat_template.jinja").exists():
        found["default"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for file in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found[file.stem] = file.read_text(encoding="utf-8")
    return found or _by_name(read_json(folder / "chat_template.json").get("chat_template"))


def _by_name(stored: Any) -> dict[str, str]:
    """A stored text, list of `{name, template}` or mapping as a mapping."""
    if isinstance(stored, str):
        return {"default": stored}
    if isinstance(stored, list):
        return {entry["name"]: entry["template"] for entry in stored}
    return dict(stored or {})


def choose_template(asked: str | None, templates: Mapping[str, str]) -> str:
    """The text of the template that `model.chat_template` asks for, by name or as Jinja.

    Raises:
        ConfigError: there is no template of that name, or several and none is the default.
    """
    names = ", ".join(sorted(templates)) or "none"
    if asked is None:
        if templates and "default" not in templates:
            why = f"the model has several chat templates and no default: {names}"
            raise ConfigError([Problem("model.chat_template", None, why, "name one of them")])
        return templates.get("default", PLAIN_TEMPLATE)
    if asked in templates:
        return templates[asked]
    if "{{" not in asked and "{%" not in asked:
        why = f"this is neither Jinja nor the name of a template of the model, which has: {names}"
        raise ConfigError([Problem("model.chat_template", asked, why, "give one of these names, or Jinja text")])
    return asked


def argument_problems(arguments: Mapping[str, Any]) -> list[Problem]:
    why = "this name is what every template is rendered with"
    return [
        Problem(f"model.template_arguments.{name}", arguments[name], why, "leave it out")
        for name in RESERVED_ARGUMENTS
        if name in arguments
    ]


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks what an assistant writes; the text stays as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def compile_template(source: str) -> Template:
    """
    Raises:
        TemplateError: it is not Jinja.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source)
