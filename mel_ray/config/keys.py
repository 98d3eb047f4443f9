"""Every key of the configuration with its type, default and sentence, read from the schema."""

import difflib
import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from mel_ray.config.schema import Config
from mel_ray.config.section import NameIn, Section

WIDTH = 110
_PLAIN: dict[Any, str] = {bool: "true or false", int: "integer", float: "number", str: "text"}
_LIMITS: dict[type, tuple[str, str]] = {Ge: (">=", "ge"), Gt: (">", "gt"), Le: ("<=", "le"), Lt: ("<", "lt")}


@dataclass(frozen=True, slots=True)
class Key:
    """A dotted key; an entry of a list or mapping is written `[]`, as in `eval.benchmarks[].name`.

    A section's `kind` is empty. `default` is None where a value must be given. `names` are the values of a choice.
    """

    path: str
    sentence: str
    kind: str = ""
    default: str | None = None
    names: tuple[str, ...] = ()

    @property
    def is_section(self) -> bool:
        return not self.kind

    def matches(self, word: str) -> bool:
        return word.lower() in self.path.lower() or word.lower() in self.sentence.lower()


def all_keys(section: type[Section] = Config, prefix: str = "") -> Iterator[Key]:
    """Every key below a section: its own values first, then each section within it, followed by that section's keys."""
    inner: list[tuple[Key, type[Section], str]] = []
    for name, field in section.model_fields.items():
        path, held = f"{prefix}{name}", _section_in(field)
        if held and not _holds_many(field):
            inner.append((Key(path, _sentence(field, held)), held, f"{path}."))
            continue
        yield Key(path, _sentence(field), _kind(field), _default(field), _names(field))
        if held:
            inner.append((Key(f"{path}[]", _sentence(field, held, is_entry=True)), held, f"{path}[]."))
    for key, held, below in inner:
        yield key
        yield from all_keys(held, below)


def known_keys() -> list[str]:
    """What may stand left of `=` in an override, sections included."""
    return [key.path for key in all_keys() if "[]" not in key.path]


def defaults(section: type[Section] = Config) -> dict[str, Any]:
    """The schema's defaults as nested plain values, without the keys that have none."""
    found: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        held = _section_in(field)
        if held and not _holds_many(field):
            found[name] = defaults(held)
        elif not field.is_required():
            value = field.get_default(call_default_factory=True)
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


def keys_text(word: str | None = None) -> str:
    """All keys, or those whose path or sentence contains `word`, section by section, at most 110 columns wide."""
    lines: list[str] = []
    heading: Key | None = None
    for key in all_keys():
        if key.is_section:
            heading = key
        elif word is None or key.matches(word):
            if heading:
                lines += ["", *_wrapped(f"{heading.path}: {heading.sentence}", indent=0)]
                heading = None
            lines += _lines(key)
    if not lines:
        return _nothing_found(str(word))
    above = "A file of conf/ that is chosen by model=, cluster=, experience= and so on may set another value."
    return "\n".join([above, *lines])


def _lines(key: Key) -> list[str]:
    default = "required" if key.default is None else f"default {key.default}"
    choice = f" One of: {', '.join(key.names)}." if key.names else ""
    return [f"  {key.path:<40}{key.kind:<32}{default}", *_wrapped(key.sentence + choice, indent=6)]


def _wrapped(text: str, indent: int) -> list[str]:
    space = " " * indent
    return textwrap.wrap(
        text, WIDTH, initial_indent=space, subsequent_indent=space, break_long_words=False, break_on_hyphens=False
    )


def _nothing_found(word: str) -> str:
    paths = {key.path.rsplit(".", 1)[-1]: key.path for key in reversed(list(all_keys())) if not key.is_section}
    close = difflib.get_close_matches(word.lower(), [*paths, *paths.values()], n=3)
    found = list(dict.fromkeys(paths.get(name, name) for name in close))
    end = f"Close matches: {', '.join(found)}." if found else "Leave the word out to see all keys."
    return f"No key has '{word}' in its name or its sentence. {end}"


# -- reading a field


def _alternatives(field: FieldInfo) -> tuple[Any, ...]:
    """The types of a union; of any other type, itself."""
    annotation = field.annotation
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _is_list(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is tuple


def _holds_many(field: FieldInfo) -> bool:
    return get_origin(field.annotation) in (tuple, dict)


def _section_in(field: FieldInfo) -> type[Section] | None:
    """The section that a field, or each entry of a list or mapping, is; also of a field that takes one section or a
    list."""
    entries = get_args(field.annotation)
    kind = entries[0 if _is_list(field) else 1] if _holds_many(field) else _alternatives(field)[0]
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _sentence(field: FieldInfo, held: type[Section] | None = None, is_entry: bool = False) -> str:
    """What stands below the key, else what the section in it says of itself."""
    text = (None if is_entry else field.description) or (held.__doc__ if held else None) or ""
    return " ".join(text.split())


def _kind(field: FieldInfo) -> str:
    """The type in words, with its limits: "number > 0 and <= 1, or null"."""
    kinds = _alternatives(field)
    words = "choice" if _names(field) and not _is_list(field) else _in_words(kinds[0])
    limits = [
        f"{sign} {getattr(limit, name):g}"
        for limit in field.metadata
        for kind, (sign, name) in _LIMITS.items()
        if isinstance(limit, kind)
    ]
    comma = "," if limits else ""
    return f"{words} {' and '.join(limits)}".strip() + (f"{comma} or null" if NoneType in kinds else "")


def _in_words(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is tuple:
        return "list" if Ellipsis in get_args(kind) else f"list of {len(get_args(kind))}"
    return "mapping" if origin is dict else _PLAIN.get(kind, str(kind))


def _names(field: FieldInfo) -> tuple[str, ...]:
    """The values of a choice, or of a list's entries: of a Literal, or in a registry."""
    kind = get_args(field.annotation)[0] if _is_list(field) else field.annotation
    if get_origin(kind) is Literal:
        return tuple(map(str, get_args(kind)))
    notes = (*field.metadata, *getattr(kind, "__metadata__", ()))
    return next((note.names for note in notes if isinstance(note, NameIn)), ())


def _default(field: FieldInfo) -> str | None:
    return None if field.is_required() else _shown(field.get_default(call_default_factory=True))


def _shown(value: Any) -> str:
    """A value as it is written in an override."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return f"[{','.join(map(_shown, value))}]"
    return value if isinstance(value, str) and value else json.dumps(value)
