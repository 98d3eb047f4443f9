"""What pydantic finds wrong with the configuration's values, one sentence for each."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mel_ray.config.keys import all_keys, known_keys
from mel_ray.config.names import did_you_mean, entry_key, name_and_path
from mel_ray.records.problem import Problem

ALL_KEYS = "`mel keys` prints all keys"
_IN_WORDS = {"tuple_type": "this is a list", "dict_type": "this is a mapping"}


def validation_problems(error: ValidationError, values: Any) -> list[Problem]:
    """The problems of an error that pydantic raised for `values`."""
    details = error.errors()
    wrong = {detail["loc"] for detail in details}
    # pydantic leaves a wrong entry out and then says that its list is too short
    details = [one for one in details if one["type"] != "too_short" or not _is_above(one["loc"], wrong)]
    return [_problem(detail, values) for detail in details]


def _is_above(loc: tuple[int | str, ...], others: set[tuple[int | str, ...]]) -> bool:
    return any(len(other) > len(loc) and other[: len(loc)] == loc for other in others)


def _path(loc: Sequence[str | int], values: Any) -> str:
    path = ""
    for part in loc:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            values = None
        if isinstance(part, int):
            name = values.get("name") if isinstance(values, dict) else None
            path = entry_key(path, name if isinstance(name, str | int) else part)
        elif part != "source" or not path.startswith("eval.benchmarks["):  # its keys may stand in the entry
            path += f".{part}" if path else part
    return path


def _problem(detail: ErrorDetails, values: Any) -> Problem:
    kind, given, loc = detail["type"], detail["input"], detail["loc"]
    if loc[-1:] == ("[key]",):  # pydantic's mark of a mapping's key
        return Problem(_path(loc[:-2], values), given, "a name in this mapping must be text")
    path = _path(loc, values)
    if kind == "extra_forbidden":
        return Problem(path, None, "there is no such key", _remedy_of_unknown_key(loc))
    if kind == "missing":
        return Problem(path, None, "this key is required", "add it")
    if kind == "model_type":
        why = "an entry of this list is a mapping" if isinstance(loc[-1], int) else "this is a section"
        return Problem(path, given, why, _remedy_of_section(loc, given))
    if kind == "too_short":
        return Problem(path, given, f"this list needs at least {detail['ctx']['min_length']} entry", "add one")
    if kind == "no_such_name":
        return Problem(path, given, detail["msg"], did_you_mean(str(given), detail["ctx"]["names"]))
    why = _IN_WORDS.get(kind, detail["msg"][0].lower() + detail["msg"][1:])
    return Problem(path, given, why, _remedy_of_wrong_type(kind, path, given))


def _remedy_of_unknown_key(loc: Sequence[str | int]) -> str:
    """Within an entry of a list or mapping, only what may stand there is suggested."""
    if loc[:2] == ("reward", "parts"):
        loc = (*loc[:2], 0, *loc[3:])
    if not any(isinstance(part, int) for part in loc):
        return did_you_mean(".".join(map(str, loc)), known_keys(), ALL_KEYS)
    *above, last = (str(part) for part in loc if not isinstance(part, int))
    paths = [key.path.replace("[]", "").split(".") for key in all_keys()]
    return did_you_mean(last, [path[-1] for path in paths if path[:-1] == above], ALL_KEYS)


def _remedy_of_section(loc: Sequence[str | int], given: Any) -> str:
    is_entry = isinstance(loc[-1], int)
    if loc[:2] == ("data", "train") and isinstance(given, str) and given.strip():
        name, path = name_and_path(given)
        return f"write {{name: {name}, path: {path}}}" if is_entry else f"write data=table data.train.path={path}"
    return "write {key: value, ...}" if is_entry else "set the keys below it, one by one"


def _remedy_of_wrong_type(kind: str, path: str, given: Any) -> str:
    if kind == "dict_type":
        return "write {name: value}"
    if kind != "tuple_type":
        return ""
    holds_sections = any(key.path == f"{path}[]" for key in all_keys())
    is_one_entry = not (holds_sections or given is None or isinstance(given, dict))
    return f"write it as [{given}]" if is_one_entry else "write it in []"
