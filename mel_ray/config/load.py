"""Hydra composes `conf/`, pydantic checks it; unknown keys are met with "did you mean"."""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from mel_ray.records.problems import ConfigError, Problem
from mel_ray.config.schema import Config
from mel_ray.config.templates import CONF_DIR


def known_keys(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the schema, groups included."""
    keys = []
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        keys.append(path)
        candidates = [field.annotation, *get_args(field.annotation)]
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                keys += known_keys(candidate, f"{path}.")
    return keys


def _groups(conf_dir: Path) -> dict[str, list[str]]:
    """Config groups and their options, e.g. {"model": ["tiny", "qwen3_8b_base"], "mel/template": [...]}."""
    groups: dict[str, list[str]] = {}
    for file in sorted(conf_dir.rglob("*.yaml")):
        if file.parent != conf_dir:
            groups.setdefault(file.parent.relative_to(conf_dir).as_posix(), []).append(file.stem)
    return groups


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not close:
        last = word.rsplit(".", 1)[-1]
        close = [key for key in known if key.rsplit(".", 1)[-1] == last][:1]
    return f"did you mean '{close[0]}'?" if close else "conf/ and mel_ray/config/schema.py hold all keys"


def _override_problems(overrides: Sequence[str], conf_dir: Path) -> list[Problem]:
    problems: list[Problem] = []
    keys, groups = known_keys(), _groups(conf_dir)
    parser = OverridesParser.create()
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException:
            problems.append(Problem(text, None, "this is not an override", "write key=value, e.g. run.steps=10"))
            continue
        name = override.key_or_group
        if name in groups:
            value = override.value()
            if isinstance(value, str) and value not in groups[name]:
                problems.append(
                    Problem(
                        name,
                        value,
                        f"there is no such option; there are: {', '.join(groups[name])}",
                        _did_you_mean(value, groups[name]),
                    )
                )
        elif name not in keys:
            problems.append(Problem(name, None, "there is no such key", _did_you_mean(name, [*keys, *groups])))
    return problems


def _validation_problems(error: ValidationError) -> list[Problem]:
    problems = []
    for detail in error.errors():
        path = ".".join(map(str, detail["loc"]))
        if detail["type"] == "extra_forbidden":
            problems.append(Problem(path, None, "there is no such key", _did_you_mean(path, known_keys())))
        elif detail["type"] == "missing":
            problems.append(Problem(path, None, "this key is required", "add it"))
        else:
            problems.append(Problem(path, detail.get("input"), detail["msg"][0].lower() + detail["msg"][1:]))
    return problems


def compose_config(overrides: Sequence[str] = (), conf_dir: Path = CONF_DIR) -> Config:
    """The checked configuration for Hydra overrides such as `run.steps=10` or `model=qwen3_8b_base`.

    Raises:
        ConfigError: an override, key or value is wrong; lists every problem found at this stage.
    """
    if problems := _override_problems(overrides, conf_dir):
        raise ConfigError(problems)
    try:
        with initialize_config_dir(config_dir=str(conf_dir), version_base="1.3"):
            # ++ sets a key whether or not the YAML already names it; the schema knows which keys exist.
            composed = compose("config", [_forced(text, conf_dir) for text in _with_experiment(overrides)])
        values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError([Problem(str(error.full_key), None, "this key is required", "add it")]) from error
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError([Problem("configuration", None, str(error).splitlines()[0])]) from error
    _expand_benchmarks(values, conf_dir)
    return validate(values)


def _with_experiment(overrides: Sequence[str]) -> list[str]:
    """The experiment that fits the model, unless one is asked for."""
    given = dict(text.split("=", 1) for text in overrides if "=" in text)
    if "experiment" in given:
        return list(overrides)
    fitting = {"tiny": "embedded", "local": "custom"}.get(given.get("model", "tiny"), "mel_paper")
    return [f"experiment={fitting}", *overrides]


def _expand_benchmarks(values: Any, conf_dir: Path) -> None:
    """Replace names in `eval.benchmarks` by what `conf/benchmark/<name>.yaml` says."""
    section = values.get("eval")
    if not isinstance(section, dict):
        raise ConfigError([Problem("eval", section, "this is a group of keys", "set eval.every and so on")])
    known = _groups(conf_dir).get("benchmark", [])
    names = section.get("benchmarks") or []
    if not isinstance(names, list):
        raise ConfigError([Problem("eval.benchmarks", names, "this is a list", f"write eval.benchmarks=[{names}]")])
    expanded = []
    for entry in names:
        if not isinstance(entry, str):
            expanded.append(entry)
            continue
        if entry not in known:
            why = f"there is no such benchmark; there are: {', '.join(known)}"
            raise ConfigError([Problem("eval.benchmarks", entry, why, _did_you_mean(entry, known))])
        source = yaml.safe_load((conf_dir / "benchmark" / f"{entry}.yaml").read_text())
        expanded.append({"name": entry, "source": source})
    section["benchmarks"] = expanded


def continued_config(stored: Path, overrides: Sequence[str], conf_dir: Path = CONF_DIR) -> Config:
    """The stored configuration of a run with single keys overridden; groups cannot change in mid-run.

    Raises:
        ConfigError: an override is wrong or names a group, or the stored file cannot be read.
    """
    if problems := _override_problems(overrides, conf_dir):
        raise ConfigError(problems)
    try:
        values = OmegaConf.load(stored)
        for text in overrides:
            override = OverridesParser.create().parse_override(text)
            if override.key_or_group in _groups(conf_dir):
                why = "a run that continues keeps its groups"
                raise ConfigError(
                    [Problem(override.key_or_group, override.value(), why, "leave it out, or start a new run")]
                )
            OmegaConf.update(values, override.key_or_group, override.value(), force_add=True)
        plain = OmegaConf.to_container(values, resolve=True)
    except (OSError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError([Problem(str(stored), None, f"cannot be read ({error})")]) from error
    _expand_benchmarks(plain, conf_dir)
    return validate(plain)


def _forced(text: str, conf_dir: Path) -> str:
    is_group = text.lstrip("+~").split("=")[0].split("@")[0] in _groups(conf_dir)
    return text if is_group or text.startswith(("+", "~")) else f"++{text}"


def validate(values: Any) -> Config:
    """Check a plain nested mapping.

    Raises:
        ConfigError: with one problem per wrong key or value.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_validation_problems(error)) from error


def to_yaml(config: Config) -> str:
    plain: DictConfig = OmegaConf.create(config.model_dump(mode="json"))
    return OmegaConf.to_yaml(plain)
