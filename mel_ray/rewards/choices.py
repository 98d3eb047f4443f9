"""Multiple choice: `(C)`, `C. 12 eV` and the option's own text say the same letter."""

import re
from collections.abc import Callable, Sequence

_LETTER = re.compile(r"\(?([A-J])\)?[.:)]?")
_LABELLED = re.compile(r"(?:\(([A-J])\)|([A-J])[.:)])[.:]?(.+)")
_LONE = re.compile(r"(?<![a-zA-Z\\])[A-J](?![a-zA-Z])")
_LETTERS = "ABCDEFGHIJ"


def by_letter(plain: str, gold: str, options: Sequence[str], compare: Callable[[str, str], bool]) -> bool | None:
    """The verdict where an undressed answer or truth is a choice; None where neither is."""
    letter = _LETTER.fullmatch(gold)
    if letter:
        return _says(plain, letter[1], options, compare)
    labelled = _LABELLED.fullmatch(gold)
    if labelled:
        if said := _said(plain):
            return said == (labelled[1] or labelled[2])
        return compare(plain, labelled[3])
    if options and (only := _LETTER.fullmatch(plain)):
        index = _LETTERS.index(only[1])
        return index < len(options) and compare(options[index], gold)
    labelled = _LABELLED.fullmatch(plain)
    if labelled and not gold.startswith("("):
        return compare(labelled[3], gold)
    return None


def _said(plain: str) -> str | None:
    """The one letter an answer says; None for several or none."""
    if match := _LETTER.fullmatch(plain):
        return match[1]
    match = _LABELLED.fullmatch(plain)
    return (match[1] or match[2]) if match and not _LONE.search(match[3]) else None


def _says(plain: str, letter: str, options: Sequence[str], compare: Callable[[str, str], bool]) -> bool | None:
    if said := _said(plain.upper() if options and len(plain) <= 3 else plain):
        return said == letter
    if _LABELLED.fullmatch(plain):
        return False
    index = _LETTERS.index(letter)
    if index < len(options):
        others = (option for number, option in enumerate(options) if number != index)
        return compare(plain, options[index]) and not any(compare(plain, other) for other in others)
    return None
