"""Hydra composes `conf/` over the schema's defaults, pydantic checks it; unknown keys are met with "did you mean"."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import ValidationError

from mel_ray.config.benchmark_lists import expand_benchmarks, quoted_entries
from mel_ray.config.keys import all_keys, defaults, known_keys
from mel_ray.config.names import did_you_mean
from mel_ray.config.schema import Config
from mel_ray.config.source_lists import below_train, refuse_keys_of_one_source, set_apart, with_sources
from mel_ray.config.templates import CONF_DIR
from mel_ray.config.wrong_values import ALL_KEYS, validation_problems
from mel_ray.records.problem import ConfigError, Problem

# In the presets: as many engines as fit a number of GPUs, `${engines_on:4,${.tensor_parallel}}`.
OmegaConf.register_new_resolver("engines_on", lambda gpus, width: max(1, int(gpus) // int(width)), replace=True)
OmegaConf.register_new_resolver("either", lambda says, yes, no: yes if says else no, replace=True)
_RENAMED_OPTIONS = {"experiment=mel_paper": "experiment=paper_scale"}  # `preset=mel_paper` is another thing
_FITTING_EXPERIMENT = {
    "tiny": "embedded",
    "tiny_rules": "rules",
    "smollm2": "smollm2",
    "local": "custom",
}  # by model; else the paper's
# key=value whose value begins neither a quote nor a list, a mapping or a call; `{{` and `{%` begin Jinja
_UNQUOTED = re.compile(r"""([+~]{0,2}[\w$./-]+)=((?:[^\s'"\[({]|\{[{%]).*)""", re.ASCII | re.DOTALL)


def _groups(conf_dir: Path) -> dict[str, list[str]]:
    """Config groups and their options, e.g. {"model": ["tiny", "qwen3_8b_base"], "mel/template": [...]}."""
    groups: dict[str, list[str]] = {}
    for file in sorted(conf_dir.rglob("*.yaml")):
        if file.parent != conf_dir:
            groups.setdefault(file.parent.relative_to(conf_dir).as_posix(), []).append(file.stem)
    return groups


def _understood(overrides: Sequence[str]) -> list[str]:
    """The overrides with today's names, and with quotes where Hydra needs them, as in run.name=größe.

    What Hydra can read is left alone, and so is what quotes would not save.
    """
    parser = OverridesParser.create()

    def quoted(text: str) -> str:
        try:
            parser.parse_override(text)
        except HydraException:
            text = quoted_entries(text)
            if match := _UNQUOTED.fullmatch(text):
                return f"{match[1]}={QuotedString(match[2], Quote.single).with_quotes()}"
        return text

    return [quoted(_RENAMED_OPTIONS.get(text, text)) for text in overrides]


def _override_problems(overrides: Sequence[str], conf_dir: Path) -> list[Problem]:
    problems: list[Problem] = []
    keys, groups = known_keys(), _groups(conf_dir)
    parser = OverridesParser.create()
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException:
            override = None
        if override is None or not override.key_or_group:
            problems.append(Problem(text, None, "this is not an override", "write key=value, e.g. run.steps=10"))
            continue
        name, given = override.key_or_group, text.partition("=")[2]
        if name not in keys and name not in groups and not _is_in_a_mapping(name):
            problems.append(Problem(name, None, "there is no such key", did_you_mean(name, [*keys, *groups], ALL_KEYS)))
        elif override.is_sweep_override():
            problems.append(
                Problem(name, given, "the comma makes this several values", "put text in quotes, or a list in []")
            )
        elif name in groups and not override.is_delete():
            problems += _option_problems(name, override.value(), groups[name])
    return problems


def _is_in_a_mapping(name: str) -> bool:
    """Whether a key is an entry of a mapping, as in `reward.parts.format=0.2`."""
    return any(name.startswith(f"{key.path}.") for key in all_keys() if key.kind == "mapping")


def _option_problems(group: str, value: Any, options: Sequence[str]) -> Iterator[Problem]:
    for option in value if isinstance(value, list) else [value]:
        if option not in options:
            why = f"there is no such option; there are: {', '.join(options)}"
            yield Problem(group, option, why, did_you_mean(str(option), options))


def compose_config(overrides: Sequence[str] = (), conf_dir: Path = CONF_DIR) -> Config:
    """The checked configuration for Hydra overrides such as `run.steps=10` or `model=qwen3_8b_base`.

    Raises:
        ConfigError: an override, key or value is wrong; lists every problem found at this stage.
    """
    overrides = _understood(overrides)
    if problems := _override_problems(overrides, conf_dir):
        raise ConfigError(problems)
    others, sources = set_apart(overrides)
    try:
        values = _resolved(with_sources(_composed(others, conf_dir), sources))
    except MissingMandatoryValue as error:
        raise ConfigError([Problem(str(error.full_key), None, "this key is required", "add it")]) from error
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError([_composition_problem(error)]) from error
    expand_benchmarks(values, conf_dir)
    return validate(values)


def _composition_problem(error: Exception) -> Problem:
    key, cause_key = getattr(error, "full_key", None), getattr(error.__cause__, "full_key", None)
    if cause_key:  # Hydra cannot put a list where the files have a mapping, for example
        remedy = f"`mel keys {cause_key}` prints what it takes"
        return Problem(str(cause_key), None, "this value is of the wrong kind", remedy)
    lines = str(error).splitlines()
    return Problem(str(key), None, lines[0]) if key else Problem("configuration", None, " ".join(lines[:2]))


def _composed(overrides: Sequence[str], conf_dir: Path) -> DictConfig:
    try:
        with initialize_config_dir(config_dir=str(conf_dir), version_base="1.3"):
            # ++ sets a key whether or not the YAML already names it; the schema knows which keys exist.
            return compose("config", [_forced(text, conf_dir) for text in _with_experiment(overrides)])
    except ValueError:  # a name where a list needs a number
        below = below_train(overrides)
        if below:
            refuse_keys_of_one_source(below, _composed([text for text in overrides if text not in below], conf_dir))
        raise


def _with_experiment(overrides: Sequence[str]) -> list[str]:
    """The experiment that fits the model, unless one is asked for."""
    given = dict(text.split("=", 1) for text in overrides if "=" in text)
    if "experiment" in given:
        return list(overrides)
    fitting = _FITTING_EXPERIMENT.get(given.get("model", "tiny"), "paper_scale")
    return [f"experiment={fitting}", *overrides]


def _resolved(composed: Any) -> Any:
    """Plain values over the schema's defaults, so that an interpolation may name a key that no YAML states.

    Raises:
        MissingMandatoryValue: a value is `???`.
    """
    given = OmegaConf.to_container(composed, resolve=False)
    return OmegaConf.to_container(OmegaConf.create(_over(defaults(), given)), resolve=True, throw_on_missing=True)


def _over(below: Any, above: Any) -> Any:
    """`above` where it says something, `below` elsewhere, section by section."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {**below, **{key: _over(below.get(key), value) for key, value in above.items()}}


def continued_config(stored: Path, overrides: Sequence[str], conf_dir: Path = CONF_DIR) -> Config:
    """The stored configuration of a run with single keys overridden; groups cannot change in mid-run.

    Raises:
        ConfigError: an override is wrong or names a group, or the stored file cannot be read.
    """
    overrides = _understood(overrides)
    if problems := _override_problems(overrides, conf_dir):
        raise ConfigError(problems)
    try:
        others, sources = set_apart(overrides)
        values = with_sources(OmegaConf.load(stored), sources)
        refuse_keys_of_one_source(others, values)
        for text in others:
            override = OverridesParser.create().parse_override(text)
            if override.key_or_group in _groups(conf_dir):
                why = "a run that continues keeps its groups"
                raise ConfigError(
                    [Problem(override.key_or_group, override.value(), why, "leave it out, or start a new run")]
                )
            OmegaConf.update(values, override.key_or_group, override.value(), force_add=True)
        plain = _resolved(values)
    except (OSError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError([Problem(str(stored), None, f"cannot be read ({error})")]) from error
    expand_benchmarks(plain, conf_dir)
    return validate(plain)


def names_group(overrides: Sequence[str], conf_dir: Path = CONF_DIR) -> bool:
    """Whether any override chooses a file of conf/, as in `model=qwen3_8b_base`."""
    groups = _groups(conf_dir)
    return any(text.lstrip("+~").split("=")[0].split("@")[0] in groups for text in overrides)


def _forced(text: str, conf_dir: Path) -> str:
    return text if names_group([text], conf_dir) or text.startswith(("+", "~")) else f"++{text}"


def validate(values: Any) -> Config:
    """Check a plain nested mapping.

    Raises:
        ConfigError: with one problem per wrong key or value.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(validation_problems(error, values)) from error


def to_yaml(config: Config) -> str:
    plain: DictConfig = OmegaConf.create(config.model_dump(mode="json"))
    return OmegaConf.to_yaml(plain)
