"""A value of the wrong type is one sentence: which key, what it must be."""

from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import pytest
from pydantic import WrapValidator

from mel_ray.config.learning import KlConfig
from mel_ray.config.load import compose_config
from mel_ray.config.schema import Config, RewardPart, TrainSourceConfig
from mel_ray.config.section import MustBe, Section
from mel_ray.records.problem import ConfigError

BAND = "it must be [lowest,highest], as in [0.1,0.9]."
VALUES = "it must be a value or a list of values."


def sentence(override: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose_config([override])
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.train.where={question: [a,{b: c}]}", f"data.train.where.question=['a', {{'b': 'c'}}]: {VALUES}"),
        ("data.train.where={question: {str: c}}", f"data.train.where.question={{'str': 'c'}}: {VALUES}"),
        ("data.train=[{name: a, where: {q: [[1]]}}]", f"data.train[a].where.q=[[1]]: {VALUES}"),
        (
            "eval.benchmarks=[{name: a, path: b, where: {q: {b: c}}}]",
            f"eval.benchmarks[a].where.q={{'b': 'c'}}: {VALUES}",
        ),
        ("data.train.where=3", "data.train.where=3: this is a mapping. Write {name: value}."),
        ("data.train.where={true: 2}", "data.train.where=True: a name in this mapping must be text."),
        (
            "data.train.where={null: 2}",
            "data.train.where: this value is of the wrong kind. `mel keys data.train.where`",
        ),
        ("model.template_arguments={a: [1]}", "model.template_arguments.a=[1]: it must be text, a number, true, false"),
        ("data.train.pass_rate=0.1", f"data.train.pass_rate=0.1: {BAND}"),
        ("data.train.pass_rate=[0.1]", f"data.train.pass_rate=[0.1]: {BAND}"),
        ("data.train.pass_rate=[]", f"data.train.pass_rate=[]: {BAND}"),
        ("data.train.pass_rate=[0.1,0.2,0.3]", f"data.train.pass_rate=[0.1, 0.2, 0.3]: {BAND}"),
        ("data.train.pass_rate=[a,b]", f"data.train.pass_rate=['a', 'b']: {BAND}"),
        ("data.train=[{name: a, pass_rate: 0.1}]", f"data.train[a].pass_rate=0.1: {BAND}"),
        ("algorithm.betas=[0.9]", "algorithm.betas=[0.9]: it must be two numbers, as in [0.9,0.95]."),
        ("reward.extract=boxed", "reward.extract=boxed: this is a list. Write it as [boxed]."),
        ("reward.extract={a: b}", "reward.extract={'a': 'b'}: this is a list. Write it in []."),
        ("reward.extract=[box]", "reward.extract[0]=box: there is no such extraction rule"),
        ("mel.template.sections=3", "mel.template.sections=3: this is a list. Write it in []."),
        (
            "mel.template.sections=[3]",
            "mel.template.sections[0]=3: an entry of this list is a mapping. Write {key: value",
        ),
        ("mel.template.sections=[]", "mel.template.sections=[]: this list needs at least 1 entry. Add one."),
        ("run.steps=${b}", "run.steps: Interpolation key 'b' not found."),
    ],
)
def test_a_value_of_the_wrong_type_is_one_sentence(override, told):
    assert sentence(override).startswith(told)


def test_numbers_may_name_columns():
    assert compose_config(["data.train.where={0: a}"]).data.train.where == {"0": "a"}


def with_many_errors(kind: Any) -> list[Any]:
    """The unions and tuples of fixed length within a type of which pydantic would say what each member lacks."""
    if any(isinstance(note, MustBe) for note in getattr(kind, "__metadata__", ())):
        return []
    members = [one for one in get_args(kind) if one not in (NoneType, Ellipsis)]
    is_union = get_origin(kind) in (Union, UnionType)
    is_fixed = get_origin(kind) is tuple and Ellipsis not in get_args(kind)
    found = [kind] if (is_union or is_fixed) and len(members) > 1 else []
    return found + [one for member in members for one in with_many_errors(member)]


def sections(section: type[Section]) -> set[type[Section]]:
    found = {section}
    for field in section.model_fields.values():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Section):
                found |= sections(kind)
    return found


def test_every_union_and_every_tuple_says_what_it_must_be():
    assert {TrainSourceConfig, RewardPart, KlConfig} <= sections(Config)
    for section in sections(Config):
        for name, field in section.model_fields.items():
            if not any(isinstance(note, MustBe | WrapValidator) for note in field.metadata):
                assert with_many_errors(field.annotation) == [], f"{section.__name__}.{name}"
