r"""The final answer in a response: the last complete `\boxed{...}`, then configured fall-backs.

Everything is a search over bounded text with literal openers; nothing is evaluated. To add a rule: a function here and
a line in `RULES`, which `rewards/registry.py` shows to the configuration.
"""

import re
from collections.abc import Callable, Sequence

MAX_RESPONSE = 200_000
MAX_ANSWER = 2_000
MAX_BOXES = 200
Rule = Callable[[str], str | None]  # the answer in a response, or None

_OPENERS = ("\\boxed{", "\\fbox{")
_FINAL = re.compile(r"(?i)\b(?:final\s+)?answer\s*(?:is\s*:?|:)\s*([^\n]{1,300})")
_HASHES = re.compile(r"####[ \t]*([^\n]{1,300})")
_CHOICE = re.compile(r"(?:^|[\s(\[*])([A-J])(?=[\s).\]:*]|$)")


def last_boxed(response: str) -> str | None:
    r"""Content of the last complete `\boxed{...}`, nested braces allowed; None if there is none.

    An unclosed box is no answer. Only the last 200,000 characters are searched, and an answer has at most 2,000.
    """
    text = response[-MAX_RESPONSE:]
    starts = sorted(start + len(opener) for opener in _OPENERS for start in _occurrences(text, opener))
    for content in reversed(starts[-MAX_BOXES:]):
        depth = 1
        for position in range(content, min(len(text), content + MAX_ANSWER + 1)):
            character = text[position]
            if character in "{}" and text[position - 1] != "\\":
                depth += 1 if character == "{" else -1
                if depth == 0:
                    return text[content:position].strip()
    return None


def _occurrences(text: str, needle: str) -> list[int]:
    found, start = [], text.find(needle)
    while start >= 0:
        found.append(start)
        start = text.find(needle, start + 1)
    return found


def _last_match(pattern: re.Pattern[str], response: str) -> str | None:
    matches = pattern.findall(response[-MAX_RESPONSE:])
    return matches[-1].strip().rstrip(".").strip("$* ").strip() or None if matches else None


def final_answer_is(response: str) -> str | None:
    """What follows the last "(final) answer is" or "answer:", to the end of the line."""
    return _last_match(_FINAL, response)


def hashes(response: str) -> str | None:
    """What follows the last "####" (GSM8K)."""
    return _last_match(_HASHES, response)


def choice_letter(response: str) -> str | None:
    """The last letter A-J that stands alone (multiple choice)."""
    return _last_match(_CHOICE, response)


RULES: dict[str, Rule] = {
    "boxed": last_boxed,
    "final_answer_is": final_answer_is,
    "hashes": hashes,
    "choice_letter": choice_letter,
}


def extract_answer(response: str, rules: Sequence[str] = ("boxed",)) -> str | None:
    """The answer by the first rule of `RULES` that finds one, or None."""
    return next((found for rule in rules if (found := RULES[rule](response))), None)
