"""Multiple choice: `(C)`, `C. 12 eV` and the option's own text say the same letter."""

import re
from collections.abc import Callable, Sequence

from mel_ray.rewards.dress import key

_LETTER = re.compile(r"\(?([A-J])\)?[.:)]?")
_LABELLED = re.compile(
    r"(?=\([A-J]\)(?![-+])|(?:\([A-J]\)|[A-J])[.:]|[A-J]\))"  # (C)-5 is a difference, C.-5 choice C
    r"\(?([A-J])\)?+[.:]?+(?![*/^!,;=<>_])(.+)"
)
_LONE = re.compile(r"\([A-J]\)|(?<![a-zA-Z\\])[A-J][.:)]|[,;][A-J]$|^[^a-zA-Z\d]*[A-J](?:[^a-zA-Z]|or|and|[A-J])*$")
_LETTERS = "ABCDEFGHIJ"


def by_letter(plain: str, gold: str, options: Sequence[str], compare: Callable[[str, str], bool]) -> bool | None:
    """The verdict where an undressed answer or truth is a choice; None where neither is."""
    letter = _LETTER.fullmatch(gold)
    if letter:
        return _says(plain, letter[1], options, compare)
    labelled = _LABELLED.fullmatch(gold)
    if labelled:
        if said := _said(plain):
            return said == labelled[1]
        return compare(plain, labelled[2])
    if options and (only := _LETTER.fullmatch(plain)):
        index = _LETTERS.index(only[1])
        return index < len(options) and compare(options[index], gold)
    labelled = _LABELLED.fullmatch(plain)
    if labelled and not gold.startswith("("):
        index = _LETTERS.index(labelled[1])
        contradicts = index < len(options) and not compare(options[index], gold)
        return compare(labelled[2], gold) and not contradicts
    return None


def _said(plain: str) -> str | None:
    """The one letter an answer says; None for several or none."""
    if match := _LETTER.fullmatch(plain):
        return match[1]
    match = _LABELLED.fullmatch(plain)
    return match[1] if match and not _LONE.search(match[2]) else None


def _says(plain: str, letter: str, options: Sequence[str], compare: Callable[[str, str], bool]) -> bool | None:
    """Whether an answer says the letter, or the text of its option and of no other."""
    index = _LETTERS.index(letter)
    labelled = _LABELLED.fullmatch(plain)
    if said := _said(plain.upper() if options and len(plain) <= 3 else plain):
        text_of_another = (
            labelled and index < len(options) and _option_of(labelled[2], options, compare) not in (None, index)
        )
        return said == letter and not text_of_another
    if labelled:
        return False
    return _option_of(plain, options, compare) == index if index < len(options) else None


def _option_of(text: str, options: Sequence[str], compare: Callable[[str, str], bool]) -> int | None:
    """The option that a text is, if it is one alone."""
    texts = [match[2] if (match := _LABELLED.fullmatch(option)) else option for option in options]
    found = [n for n, one in enumerate(texts) if key(text).lower() == key(one).lower() or compare(text, one)]
    return found[0] if len(found) == 1 else None
