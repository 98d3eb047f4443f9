"""Prompt templates of the meta-experience loop: what the policy is asked, and how its answer must look."""

from functools import lru_cache
from pathlib import Path
from typing import Literal

import yaml
from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import SandboxedEnvironment
from pydantic import Field

from mel_ray.config.section import Section

_IN_WHEEL = Path(__file__).resolve().parents[1] / "conf"  # a wheel holds conf/ inside the package
CONF_DIR = _IN_WHEEL if _IN_WHEEL.is_dir() else _IN_WHEEL.parents[1] / "conf"  # a checkout at its top
ExperienceField = Literal["bifurcation", "critique", "heuristics"]


class TemplateSection(Section):
    """A mandatory section of a meta-experience M = (s*, C, H)."""

    header: str = Field(min_length=1)
    """Line that begins the section."""
    fields: tuple[ExperienceField, ...] = Field(min_length=1)
    """Parts of M that the section's text belongs to."""


class MelTemplate(Section):
    """Prompts of the meta-experience loop, and what its answers must look like; chosen by `mel/template=`."""

    name: str
    """Name in reports."""
    abstraction: str
    """Prompt for writing a meta-experience, in Jinja, with the fields question, incorrect and correct."""
    abstraction_from_answer: str | None = None
    """Prompt for writing one about an all-wrong group, in Jinja, with the fields question, incorrect and answer."""
    replay: str
    """Prompt for solving the question again, in Jinja, with the fields question and experience."""
    irrelevant: str = "The tea was warm."
    """Text that a replay is shown with mel.lesson=irrelevant."""
    sections: tuple[TemplateSection, ...] = Field(min_length=1)
    """Sections that a meta-experience must have in this order, each once and not empty."""
    heuristic_pattern: str | None = None
    """Regular expression that every line of heuristics must match; null allows any."""
    bifurcation_pattern: str | None = None
    """Regular expression whose first group is s* within its section; null takes the whole section."""


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
