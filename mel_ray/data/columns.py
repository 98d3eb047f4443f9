"""Values of a row: picked by a dotted key, or written by a Jinja template over the row."""

import json
import math
import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, UndefinedError, meta
from jinja2.sandbox import SandboxedEnvironment

from mel_ray.data.options import lettered

_INVISIBLE = {"Cc", "Cf", "Zl", "Zp", "Zs"}  # categories of Unicode
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class MissingError(Exception):
    """A row lacks what a question needs; such rows are left out and counted by `reason`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason + detail)
        self.reason, self.detail = reason, detail


class WrongKindError(ValueError):
    """A value is of a kind that cannot be used, such as a boolean answer."""


def is_template(key: str) -> bool:
    return "{{" in key or "{%" in key


def columns_of(key: str) -> frozenset[str]:
    """The columns of a row that a key or template reads."""
    if is_template(key):
        return frozenset(meta.find_undeclared_variables(_environment().parse(key)))
    return frozenset({key.split(".")[0]})


def pick(row: Mapping[str, Any], key: str) -> Any:
    """The value under a dotted key: `prompt.0.content` takes item 0 of the list `prompt`, then `content`.

    Text on the way that holds JSON is read as what it says.

    Raises:
        MissingError: there is no such column or field.
    """
    if key in row:
        return row[key]
    value: Any = row
    for part in key.split("."):
        value = from_json(value)
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise _no_column(row, key)
    return value


def _no_column(row: Mapping[str, Any], key: str) -> MissingError:
    return MissingError(f"no column '{key}'", f"; it has: {', '.join(map(str, row))}")


def from_json(value: Any) -> Any:
    """The list or object that a text spells out in JSON; any other value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def as_text(value: Any, what: str) -> str:
    """A text or number as text; `what` names it in messages.

    Raises:
        MissingError: it is null, not a number (NaN), or blank.
        WrongKindError: it is neither a text nor a finite number.
    """
    if value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
        raise MissingError(f"no {what}", f" ({'null' if value is None else 'NaN'} is not a text or number)")
    if isinstance(value, bool):
        raise WrongKindError(f"the {what} is {str(value).lower()}, a boolean; write it as text")
    if isinstance(value, float | Decimal) and math.isinf(value):
        raise WrongKindError(f"the {what} is an infinite number")
    if not isinstance(value, str | int | float | Decimal):
        kinds: dict[type, str] = {list: "a list", dict: "an object"}
        kind = kinds.get(type(value), f"of type {type(value).__name__}")
        raise WrongKindError(f"the {what} is {kind}, not a text or number")
    text = _plainly(value) if isinstance(value, float | Decimal) else str(value).strip()
    if is_blank(text):
        raise MissingError(f"no {what}")
    if not _LONE_SURROGATE.search(text):
        return text
    raise WrongKindError(f"the {what} holds half a character (a lone surrogate), which is no text")


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: spaces, control characters and characters without width alone."""
    return all(unicodedata.category(one) in _INVISIBLE for one in text)


def _plainly(number: float | Decimal) -> str:
    """Without an exponent: 1e-07 as 0.0000001."""
    text = str(number)
    return format(Decimal(text), "f") if "e" in text.lower() else text


@lru_cache(maxsize=1)
def _environment() -> SandboxedEnvironment:
    environment = SandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, finalize=_present, autoescape=False
    )
    environment.filters["lettered"] = lambda value: lettered(from_json(value))
    return environment


def _present(value: Any) -> Any:
    if value is None:
        raise MissingError("a null value that the template prints")
    return value


@lru_cache(maxsize=16)
def _compiled(template: str) -> Template:
    return _environment().from_string(template)


def fill(template: str, row: Mapping[str, Any]) -> str:
    """A template over a row: its columns by name, and as `row` the whole of it, for names with spaces.

    Raises:
        MissingError: the row lacks a column that the template prints.
        WrongKindError: the template cannot be used with this row.
    """
    try:
        return _compiled(template).render({"row": row, **row})
    except UndefinedError as error:
        absent = sorted(columns_of(template) - row.keys() - {"row"})
        if not absent:
            raise MissingError(f"a template that cannot be filled: {error.message}") from error
        raise _no_column(row, absent[0]) from error
    except MissingError:
        raise
    except TemplateError as error:
        raise WrongKindError(f"the template cannot be used: {error.message}") from error
    except Exception as error:  # whatever an expression in the template raises
        raise WrongKindError(f"the template cannot be used: {type(error).__name__}: {error}") from error


def allows(row: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    """Whether every column of `where` has the wanted value, or one of several; of a list column, one item suffices.

    Raises:
        MissingError: the row has no such column.
    """
    for key, wanted in where.items():
        value = pick(row, key)
        found = value if isinstance(value, list) else [value]
        choices = wanted if isinstance(wanted, tuple) else (wanted,)
        if not any(_same(one, choice) for one in found for choice in choices):
            return False
    return True


def _same(value: Any, wanted: Any) -> bool:
    if value is None or wanted is None:
        return value is wanted
    if isinstance(value, bool) or isinstance(wanted, bool):
        return str(value).lower() == str(wanted).lower()
    return value == wanted or str(value) == str(wanted)
