"""Multiple choice: `(C)`, `C. 12 eV` and the option's own text say the same letter."""

import re
from collections.abc import Callable, Sequence

_LETTER = re.compile(r"\(?([A-J])\)?[.:)]?")
_LABELLED = re.compile(r"(?:\(([A-J])\)|([A-J])[.:)])[.:]?(.+)")
_LETTERS = "ABCDEFGHIJ"


def by_letter(plain: str, gold: str, options: Sequence[str], compare: Callable[[str, str], bool]) -> bool | None:
    """The verdict where an undressed answer or truth is a choice; None where neither is."""
    letter = _LETTER.fullmatch(gold)
    if letter:
        return _says(plain, letter[1], options, compare)
    labelled = _LABELLED.fullmatch(gold)
    if labelled:
        said = _LETTER.fullmatch(plain) or _LABELLED.fullmatch(plain)
        if said:
            return (said[1] or said[2] if said.re is _LABELLED else said[1]) == (labelled[1] or labelled[2])
        return compare(plain, labelled[3])
    said = _LETTER.fullmatch(plain)
    if options and said:
        index = _LETTERS.index(said[1])
        return index < len(options) and compare(options[index], gold)
    labelled = _LABELLED.fullmatch(plain)
    if labelled and not gold.startswith("("):
        return compare(labelled[3], gold)
    return None


def _says(plain: str, letter: str, options: Sequence[str], compare: Callable[[str, str], bool]) -> bool | None:
    said = _LETTER.fullmatch(plain if not options else plain.upper()) or _LABELLED.fullmatch(plain)
    if said:
        return (said[1] or said[2] if said.re is _LABELLED else said[1]) == letter
    index = _LETTERS.index(letter)
    if index < len(options):
        others = (option for number, option in enumerate(options) if number != index)
        return compare(plain, options[index]) and not any(compare(plain, other) for other in others)
    return None
