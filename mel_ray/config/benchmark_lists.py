"""`eval.benchmarks` as it is written: names of conf/benchmark/, name=path for a file of one's own, or full entries."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mel_ray.config.names import did_you_mean, entry_key, name_and_path
from mel_ray.records.problem import ConfigError, Problem

KEY = "eval.benchmarks"
OWN = f'a file of your own is given as name=path, e.g. "{KEY}=[mine=my.jsonl]"'
_ENTRY = re.compile(r"""(?<=[\[,])\s*([\w.-]+=[^\[\]{},'"]+?)\s*(?=[,\]])""")
_IS_FILE = re.compile(r"[/\\]|\.(?:parquet|jsonl|ndjson|json|csv|gz|zst)$", re.IGNORECASE)


def quoted_entries(override: str) -> str:
    """An override of `eval.benchmarks` with quotes around its name=path entries, which Hydra cannot read otherwise."""
    key, equals, given = override.partition("=")
    is_list = key.lstrip("+~") == KEY and given.startswith("[")
    return key + equals + _ENTRY.sub(r"'\1'", given) if is_list else override


def expand_benchmarks(values: dict[str, Any], conf_dir: Path) -> None:
    """Replace every entry of `eval.benchmarks` by one with a name and a source.

    Raises:
        ConfigError: an entry is not understood, or names a benchmark that does not exist.
    """
    section = values.get("eval")
    if not isinstance(section, dict):
        return  # the schema says so
    entries = [] if section.get("benchmarks") is None else section["benchmarks"]
    if not isinstance(entries, list):
        raise ConfigError([Problem(KEY, entries, "this is a list", f"write {KEY}=[{entries}]")])
    shipped = {file.stem: file for file in sorted((conf_dir / "benchmark").glob("*.yaml"))}
    section["benchmarks"] = [_expanded(entry, shipped) for entry in entries]


def _expanded(entry: Any, shipped: Mapping[str, Path]) -> dict[str, Any]:
    if isinstance(entry, dict):
        return _full(entry, shipped)
    if isinstance(entry, list):
        raise ConfigError([Problem(KEY, entry, "a list cannot be an entry", "put all entries into one list")])
    if "=" not in str(entry):
        return {"name": entry, "source": _source_of(entry, shipped)}
    name, path = name_and_path(str(entry))
    if not path:
        raise ConfigError([Problem(KEY, entry, "this entry has no path", f"write {name}=my.jsonl")])
    if str(entry).strip().startswith("="):
        raise ConfigError([Problem(KEY, entry, "this entry has no name", f"write {name}={path}")])
    return {"name": name, "source": {"kind": "table", "path": path}}


def _source_of(name: Any, shipped: Mapping[str, Path]) -> dict[str, Any]:
    if not isinstance(name, str) or name not in shipped:
        raise ConfigError([Problem(KEY, name, _why_unknown(shipped), _remedy(str(name), list(shipped)))])
    source: dict[str, Any] = yaml.safe_load(shipped[name].read_text(encoding="utf-8"))
    return source


def _why_unknown(shipped: Mapping[str, Path]) -> str:
    return f"there is no such benchmark; there are: {', '.join(shipped)}; {OWN}"


def _remedy(name: str, known: list[str]) -> str:
    return f"write {'='.join(name_and_path(name))}" if _IS_FILE.search(name) else did_you_mean(name, known)


def _full(entry: dict[str, Any], shipped: Mapping[str, Path]) -> dict[str, Any]:
    """An entry with a name and, in `source` or directly, keys of a source; a shipped benchmark's name stands for its
    file, whose keys may be overridden, as in {name: math500, limit: 100}."""
    beside = {key: value for key, value in entry.items() if key not in ("name", "source")}
    name, source = entry.get("name"), entry.get("source") or {}
    if name is None:
        raise ConfigError([Problem(KEY, entry, "this entry has no name", "write {name: mine, path: my.jsonl}")])
    if not isinstance(source, dict):
        remedy = f"write {{name: {name}, path: {source if isinstance(source, str) else 'my.jsonl'}}}"
        raise ConfigError([Problem(f"{entry_key(KEY, name)}.source", source, "this is a section", remedy)])
    source = {**source, **beside}
    if "path" in source or "kind" in source or "split" in source:
        source = {"kind": "table", **source} if source.get("path") else source
    else:
        source = {**_source_of(name, shipped), **source}
    return {"name": name, "source": source}
