"""A run that continues under another configuration: what changed, and what may not change.

Pure but for reading config.yaml. A key that only one of two versions of mel_ray knows says nothing and is left out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mel_ray.config.keys import all_keys
from mel_ray.config.schema import Config
from mel_ray.records.problem import Problem
from mel_ray.run.scrub import HIDDEN, scrub_values
from mel_ray.run.stored_config import read_stored_config

SHOWN, WIDTH = 30, 60  # changes, and characters of a value
IGNORED = ("run.resume", "run.dir", "run.name")
REMEDY = "give the value it had, begin a run of another name, or set run.resume=force"
# What breaks the meaning of a run, by the beginning of the key, and why.
FIXED = {
    "model.path": "its checkpoint holds the weights of that model",
    "model.dtype": "its checkpoint holds weights of that type",
    "cluster.policy.lora": "its checkpoint holds what that trains",
    "run.seed": "its samples and the order of its questions follow from it",
    "data": "it counts its place in those questions",
    "reward.function": "its curves would mix two rewards",
    "reward.parts": "its curves would mix two rewards",
    "reward.extract": "its curves would mix two rewards",
}


@dataclass(frozen=True, slots=True)
class Change:
    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.old)} -> {_shown(self.new)}"


def find_changes(file: Path, config: Config) -> list[Change]:
    """How `config` differs from the stored one in `file`; nothing if there is no such file.

    Raises:
        OSError, ValueError: the file cannot be read.
    """
    if not file.exists():
        return []
    changes = _changes("", read_stored_config(file), scrub_values(config.model_dump(mode="json")))
    return [change for change in changes if change.key not in IGNORED]


def change_lines(file: Path, config: Config) -> list[str]:
    """What to print before a run goes on: a line for each change, at most SHOWN; none if the file cannot be read."""
    try:
        changes = find_changes(file, config)
    except (OSError, ValueError):
        return []
    more = [f"and {len(changes) - SHOWN} more"] if len(changes) > SHOWN else []
    return [*map(str, changes[:SHOWN]), *more]


def find_change_problems(file: Path, config: Config) -> Iterator[Problem]:
    """One for each change that a run does not survive; none with run.resume=force."""
    if config.run.resume == "force":
        return
    try:
        changes = find_changes(file, config)
    except (OSError, ValueError) as error:
        why = f"the configuration that the run had cannot be read ({error})"
        yield Problem("run.name", config.run.name, why, "begin a run of another name, or set run.resume=force")
        return
    for change in changes:
        if reason := _reason(change.key):
            why = f"run {config.run.name} had {_shown(change.old)}, and {reason}"
            yield Problem(change.key, _shown(change.new), why, REMEDY)


def find_hidden(config: Config) -> Iterator[Problem]:
    """Values of a stored configuration in whose place a secret was not stored."""
    for key, value in _leaves("", config.model_dump(mode="json")):
        if HIDDEN in value:
            why = "the run's config.yaml does not hold the secret in it"
            yield Problem(key, value, why, "give this key again, as when the run began")


def _leaves(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Texts by their keys."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from _leaves(f"{key}.{name}" if key else str(name), one)
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _leaves(f"{key}[{number}]", one)


def _reason(key: str) -> str | None:
    return next((why for start, why in FIXED.items() if f"{key}.".startswith((f"{start}.", f"{start}["))), None)


@lru_cache(maxsize=1)
def _mappings() -> frozenset[str]:
    """Keys whose value is a mapping with names of its own, which is compared as a whole."""
    return frozenset(key.path.replace("[]", "") for key in all_keys() if key.kind.startswith("mapping"))


def _changes(key: str, old: Any, new: Any, path: str = "") -> Iterator[Change]:
    """`path` is the key without the numbers of list entries."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and path not in _mappings():
        for name in new:
            if name in old:
                below = [f"{before}.{name}" if before else name for before in (key, path)]
                yield from _changes(below[0], old[name], new[name], below[1])
    elif _are_sections(old) and _are_sections(new) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _changes(f"{key}[{number}]", one, other, path)
    elif old != new:
        yield Change(key, old, new)


def _are_sections(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _shown(value: Any) -> str:
    """As in an override, on one line, cut where it is long."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else str(value) or "''"
    text = text.replace("\n", "\\n")
    return text if len(text) <= WIDTH else f"{text[:WIDTH]}..."
