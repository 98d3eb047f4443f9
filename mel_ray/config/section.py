"""What every section of the configuration is made of, names in a room's registry, and errors of one sentence."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


class Section(BaseModel):
    """Frozen; unknown keys are refused; the string below a key is its sentence, which `mel keys` prints."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True, allow_inf_nan=False
    )


@dataclass(frozen=True, slots=True)
class NameIn:
    """In `Annotated[str, NameIn(...)]`: the name of an implementation in a registry, or one of `also`.

    `registry` is called when a value is checked, so that what is registered later counts too. `what` completes "there
    is no such ...".
    """

    what: str
    registry: Callable[[], Mapping[str, Any]]
    also: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.also, *self.registry())

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, name: str) -> str:
        if name not in self.names:
            facts = {"what": self.what, "listed": ", ".join(self.names), "names": self.names}
            raise PydanticCustomError("no_such_name", "there is no such {what}; there are: {listed}", facts)
        return name


@dataclass(frozen=True, slots=True)
class MustBe:
    """In `Annotated[..., MustBe("a value or a list of values")]`: what a wrong value is told.

    For unions and tuples of fixed length, of which pydantic says what each alternative or item lacks.
    """

    what: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.custom_error_schema(
            handler(source),
            custom_error_type="must_be",
            custom_error_message="it must be {what}",
            custom_error_context={"what": self.what},
        )


# The registries are imported when they are asked: a room's implementations may import this package for their options.


def algorithms() -> Mapping[str, Any]:
    from mel_ray.policy.registry import ALGORITHMS

    return ALGORITHMS


def aggregations() -> Mapping[str, Any]:
    from mel_ray.policy.registry import AGGREGATIONS

    return AGGREGATIONS


def pair_choices() -> Mapping[str, Any]:
    from mel_ray.mel.registry import PAIR_CHOICES

    return PAIR_CHOICES


def transports() -> Mapping[str, Any]:
    from mel_ray.weights.registry import TRANSPORTS

    return TRANSPORTS


def extraction_rules() -> Mapping[str, Any]:
    from mel_ray.rewards.registry import RULES

    return RULES
