r"""Finding the final answer in a response: the last complete `\boxed{...}`, then configured fall-backs.

Everything is a search over bounded text with literal openers; nothing is evaluated.
"""

import re
from collections.abc import Sequence
from typing import Literal

MAX_RESPONSE = 200_000
MAX_ANSWER = 2_000
MAX_BOXES = 200
Rule = Literal["boxed", "final_answer_is", "hashes", "choice_letter"]
RULES: tuple[Rule, ...] = ("boxed", "final_answer_is", "hashes", "choice_letter")

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


def extract_answer(response: str, rules: Sequence[Rule] = ("boxed",)) -> str | None:
    r"""The answer by the first rule that finds one, or None.

    - boxed: the last complete `\boxed{...}`
    - final_answer_is: what follows the last "(final) answer is" or "answer:", to the end of the line
    - hashes: what follows the last "####" (GSM8K)
    - choice_letter: the last letter A-J that stands alone (multiple choice)
    """
    for rule in rules:
        match rule:
            case "boxed":
                found = last_boxed(response)
            case "final_answer_is":
                found = _last_match(_FINAL, response)
            case "hashes":
                found = _last_match(_HASHES, response)
            case "choice_letter":
                found = _last_match(_CHOICE, response)
        if found:
            return found
    return None
