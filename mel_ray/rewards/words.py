"""Answers in words: compared as words."""

import re

from mel_ray.rewards.numbers import split_mark

_WORD = re.compile(r"(?<![a-zA-Z\\])[a-zA-Z]{2,}")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{[^{}]*\}")
_LONG = re.compile(r"(?<![a-zA-Z])[a-zA-Z]{4,}(?![a-zA-Z]*[({^_])")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_TOKEN = re.compile(r"[a-z]+'?|(?:(?<![a-z\d])-)?(?:\d+(?:\.\d+)?|\.\d+)|(?<![a-z])-|[^\sa-z\d.,;:'\"-]")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
# Too short to be told from a product of variables, and answers all the same.
_SHORT = frozenset(("no", "yes", "odd", "all", "any", "one", "two", "six", "ten", "tie", "red", "boy", "man", "men"))


def has_words(text: str) -> bool:
    """Whether an answer is prose: words that are no unit after a numeral, four letters, or a short word."""
    if text.strip(" .").lower() in _SHORT:
        return True
    numeral = _ENVIRONMENT.sub(" ", split_mark(text).numeral)
    if any(_WORD.search(content) for content in _TEXT.findall(numeral)):
        return True
    return bool(_LONG.search(_COMMAND.sub(" ", _TEXT.sub(" ", numeral))))


def same_words(plain: str, gold: str) -> bool:
    """Words are compared as words: without case, punctuation and articles."""
    return _tokens(plain) == _tokens(gold)


def _tokens(text: str) -> list[str]:
    found = _TOKEN.findall(_TEXT.sub(r" \1 ", text).lower().strip(" .()"))
    return [one.removesuffix("s") if len(one) > 3 else one for one in found if one not in ("the", "an")]
