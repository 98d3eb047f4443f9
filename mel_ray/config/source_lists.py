"""`data.train` as a list of sources: an override that sets one, and overrides that do not fit one."""

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import ListConfig, OmegaConf

from mel_ray.records.problem import ConfigError, Problem

KEY = "data.train"


def set_apart(overrides: Sequence[str]) -> tuple[list[str], list[Any] | None]:
    """The overrides, without the list that `data.train` is set to, and that list: Hydra does not replace one source by
    a list.

    Raises:
        ConfigError: a key of a single source is set as well.
    """
    parser, others, found = OverridesParser.create(), [], None
    for text in overrides:
        override = parser.parse_override(text)
        if override.key_or_group == KEY and isinstance(override.value(), list):
            found = override.value()
        else:
            others.append(text)
    if found is not None:
        refuse_keys_of_one_source(others, OmegaConf.create({"data": {"train": found}}))
    return others, found


def with_sources(values: Any, sources: list[Any] | None) -> Any:
    """The values with this list as `data.train`, if there is one."""
    if sources is not None:
        OmegaConf.update(values, KEY, sources, merge=False, force_add=True)
    return values


def below_train(overrides: Sequence[str]) -> list[str]:
    """The overrides of a single source's keys, such as `data.train.limit=10`."""
    parser = OverridesParser.create()
    return [text for text in overrides if str(parser.parse_override(text).key_or_group).startswith(f"{KEY}.")]


def refuse_keys_of_one_source(overrides: Sequence[str], values: Any) -> None:
    """
    Raises:
        ConfigError: `data.train` is a list in `values`, and an override sets a key below it.
    """
    if not isinstance(OmegaConf.select(values, KEY), ListConfig):
        return
    parsed = [OverridesParser.create().parse_override(text) for text in below_train(overrides)]
    if parsed:
        why = "data.train is a list of sources, and each entry has its own keys"
        raise ConfigError([Problem(str(one.key_or_group), one.value(), why, "set it in the entries") for one in parsed])
