r"""Rules that find the final answer in a response; `rewards/registry.py` names them.

Everything is a search over bounded text with literal openers; nothing is evaluated.
"""

import re
from collections.abc import Callable

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
