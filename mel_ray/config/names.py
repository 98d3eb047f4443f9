"""Which names may stand in metrics, how problems name a list's entry, what a mistyped name may mean."""

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mel_ray.records.problem import Problem

_IN_METRICS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def entry_key(key: str, entry: str | int) -> str:
    """How problems name an entry of a list: by its name, else by its position, as in `data.train[gsm]`."""
    shown = str(entry)
    return f"{key}[{shown if shown.isprintable() else ascii(shown)}]"


def find_name_problem(key: str, name: str) -> Iterator[Problem]:
    """What is wrong with the name of a source or a benchmark; `key` is that of its entry."""
    if not _IN_METRICS.fullmatch(name):
        why = "the name stands in metrics: letters, digits, '.', '_' and '-', with a letter or digit first"
        yield Problem(f"{key}.name", ascii(name), why, "rename it")


def name_and_path(text: str) -> tuple[str, str]:
    """Of `name=path`, or of a path alone, which is named after its file."""
    name, equals, path = (part.strip() for part in text.partition("="))
    if not equals:
        name, path = "", text.strip()
    return name or re.sub(r"[^A-Za-z0-9_-]+", "_", Path(path).name.split(".")[0]).strip("_") or "mine", path


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """A question that names the closest known word, else one that ends alike, else `otherwise`."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not close:
        last = word.rsplit(".", 1)[-1]
        close = [key for key in known if key.rsplit(".", 1)[-1] == last][:1]
    return f"did you mean '{close[0]}'?" if close else otherwise
