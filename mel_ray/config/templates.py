"""Prompt templates of the meta-experience loop: what the policy is asked, and how its answer must look."""

from functools import lru_cache
from pathlib import Path
from typing import Literal

import yaml
from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import SandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field

CONF_DIR = Path(__file__).resolve().parents[2] / "conf"
ExperienceField = Literal["bifurcation", "critique", "heuristics"]


class Section(BaseModel):
    """A mandatory section of a meta-experience: its header, and the parts of M = (s*, C, H) it feeds."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    header: str = Field(min_length=1)
    fields: tuple[ExperienceField, ...] = Field(min_length=1)


class MelTemplate(BaseModel):
    """Jinja prompts of abstraction (`question`, `incorrect`, `correct`) and replay (`question`, `experience`).

    `sections` must appear in this order, each once and not empty. Every heuristic line must match
    `heuristic_pattern`. Where `bifurcation_pattern` is set, s* is its first group within its section.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    abstraction: str
    replay: str
    sections: tuple[Section, ...] = Field(min_length=1)
    heuristic_pattern: str | None = None
    bifurcation_pattern: str | None = None


@lru_cache(maxsize=32)
def _compile(source: str) -> Template:
    return SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(source)


def render(source: str, **fields: str) -> str:
    """Fill a Jinja template; the fields are data and are never compiled themselves.

    Raises:
        jinja2.TemplateError: the template is malformed or names a field that was not given.
    """
    return _compile(source).render(**fields)


def template_problem(source: str, *fields: str) -> str | None:
    """Why a template cannot be rendered with exactly these fields, or None."""
    try:
        render(source, **dict.fromkeys(fields, "x"))
    except TemplateError as error:
        return f"{type(error).__name__}: {error}"
    return None


def load_template(name: str, conf_dir: Path = CONF_DIR) -> MelTemplate:
    """Read `conf/mel/template/<name>.yaml`."""
    return MelTemplate(**yaml.safe_load((conf_dir / "mel" / "template" / f"{name}.yaml").read_text()))
