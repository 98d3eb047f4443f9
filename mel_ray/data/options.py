"""The options of a multiple-choice question, in the forms in which datasets have them."""

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any


def options_of(value: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(labels, texts), in the order of the labels; a list of texts is labelled A, B, C and so on.

    The options may be a list of texts, an object from label to text, a list of objects with `label` and `text`, or an
    object with a list of each.

    Raises:
        ValueError: it is something else, or there are more options than letters.
    """
    if isinstance(value, Mapping) and {"label", "text"} <= value.keys():
        labels, texts = value["label"], value["text"]
        if not isinstance(labels, list) or not isinstance(texts, list) or len(labels) != len(texts):
            raise ValueError("the labels and texts of the options are not two lists of one length")
        pairs = list(zip(labels, texts, strict=True))
    elif isinstance(value, Mapping):
        pairs = [(label, text) for label, text in value.items() if text is not None]
    elif isinstance(value, Sequence) and not isinstance(value, str):
        is_labelled = all(isinstance(one, Mapping) and {"label", "text"} <= one.keys() for one in value)
        pairs = [(one["label"], one["text"]) if is_labelled else (None, one) for one in value]
    else:
        raise ValueError("the options are neither a list of texts nor an object from letter to text")
    if not 2 <= len(pairs) <= len(ascii_uppercase):
        there_are = "there is 1 option" if len(pairs) == 1 else f"there are {len(pairs)} options"
        raise ValueError(f"{there_are}; from 2 to {len(ascii_uppercase)} have letters")
    if not all(isinstance(text, str | int | float) and not isinstance(text, bool) for _, text in pairs):
        raise ValueError("an option is not a text or number")
    if pairs[0][0] is None:
        return tuple(ascii_uppercase[: len(pairs)]), tuple(str(text).strip() for _, text in pairs)
    pairs = sorted(((str(label).strip(), str(text).strip()) for label, text in pairs), key=_place)
    labels = tuple(label for label, _ in pairs)
    if len(set(labels)) < len(labels):
        raise ValueError(f"two options have the same label: {', '.join(labels)}")
    return labels, tuple(text for _, text in pairs)


def _place(pair: tuple[str, str]) -> tuple[int, str]:
    return int(pair[0]) if pair[0].isdecimal() else 0, pair[0]


def lettered(value: Any) -> str:
    """Jinja filter: the options with letters, one a line, as in "A. red"."""
    return "\n".join(f"{letter}. {text}" for letter, text in zip(ascii_uppercase, options_of(value)[1]))
