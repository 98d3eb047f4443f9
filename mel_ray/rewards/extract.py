r"""The final answer in a response: the last complete `\boxed{...}`, then configured fall-backs.

Everything is a search over bounded text with literal openers; nothing is evaluated. To add a rule: a function here and
a line in `RULES`, which `rewards/registry.py` shows to the configuration.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

MAX_RESPONSE = 200_000
MAX_ANSWER = 2_000
MAX_BOXES = 200
MAX_UNIT_WORDS = 4
MAX_BETWEEN = 200  # characters between two boxes of one statement
Rule = Callable[[str], str | None]  # the answer in a response, or None

_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
_BARE = re.compile(r"(?:[^\s$\\{}]|\\[a-zA-Z]+|\\[^a-zA-Z\s]|\{[^{}$]{0,100}\}){1,100}")  # what stands after `\boxed `
_MARKS = re.compile(r"[\s.,;:!?*_$]+$")
_STATEMENT_END = re.compile(r"[.!?][\s$*)\]\\]*\s+[A-Z]|\n\s*\n")
_LINK = re.compile(
    r"(?i)[\s$.,;*)\]\\]*(?:and|or)?[\s$*]*(?:\(?[a-z0-9]\)|[a-z0-9][.:])?[\s$.,;*:([\\]*(?:and|or)?[\s$*]*"
)
_LABEL = r"(?:final\s+|correct\s+)?answer"
_DISPLAY = r"(?:(?:\\\[|\$\$)[ \t]*\n\s*)?"  # the line that opens a displayed formula
_FINAL = re.compile(
    rf"(?i)\b{_LABEL}\b[*_\s]*(?:is\b|:|=|>)[:=*_,\s]*{_DISPLAY}(?=([^\n]{{1,300}}))"
    rf"|^[#*_ \t]*(?:the\s+)?{_LABEL}[*_:#\s]*\n[*_\s=-]*{_DISPLAY}(?=([^\n]{{1,300}}))",
    re.MULTILINE,
)
_NEUTRAL = re.compile(
    r"(?i)[\s,:]*(?:(?:therefore|thus|hence|then|simply|just|exactly|clearly|obviously|indeed|now|so|given by|equal to"
    r"|the (?:value|result|solution|answer) (?:is|equals))[\s,:]*)*"
)
_REASON = re.compile(r"(?i),?\s+(?:because|since|as (?:wanted|required|desired|claimed|needed)|which|so that)\b.*|</.*")
_HASHES = re.compile(r"#{4,}[ \t]*([^\n#]{1,300})")
_HEADING = re.compile(r"[^\W\d_]{2,}")
_CHOICE = re.compile(r"(?<![a-zA-Z0-9_^\\])([A-J])(?![a-zA-Z0-9_^'’])(?!\s*[-+=<>*/]\s*\w)")
_SAID_CHOICE = re.compile(r"(?i:\b(?:answer|option|choice)\b(?:\s+is)?)[\s:*$({\\a-z]{0,20}?([A-J])(?![a-zA-Z0-9_^])")
_ARTICLE = re.compile(r"(?<![(\[*$\"'{])[AI]\s+[a-z]|(?<![(\[*$\"'{])I[,.]?\s")  # `A dog`, `I think`
_MATH = re.compile(r"\$\$?([^$]{1,300}?)\$\$?|\\\((.{1,300}?)\\\)|\\\[(.{1,300}?)\\\]")


@dataclass(frozen=True, slots=True)
class Box:
    """A box of a response: its content and where the whole command stands."""

    content: str
    start: int
    end: int


def _boxes_from_the_end(text: str) -> Iterator[Box]:
    r"""Complete boxes that hold something, the last first; `\boxed 5` and `\boxed {5}` count too. A box within a box
    is part of its content."""
    starts = [(match.start(), match.end()) for match in _BOX.finditer(text)][-MAX_BOXES:]
    ends = {start: closing(text, content) for start, content in starts if text[content : content + 1] == "{"}
    inside = {inner for outer, end in ends.items() if end for inner, _ in starts if outer < inner < end}
    for start, content in reversed(starts):
        if start in inside:
            continue
        if start in ends:
            end = ends[start]
            if end is not None and (found := _BOX.sub("", text[content + 1 : end]).strip()):
                yield Box(found, start, end + 1)
        elif (bare := _BARE.match(text, content)) and (found := _MARKS.sub("", bare[0])):
            yield Box(found, start, content + len(found))


def closing(text: str, opening: int) -> int | None:
    """Where the brace at `opening` is closed; an answer has at most 2,000 characters."""
    depth = 0
    for position in range(opening, min(len(text), opening + MAX_ANSWER + 2)):
        character = text[position]
        if character in "{}" and not _is_escaped(text, position):
            depth += 1 if character == "{" else -1
            if depth == 0:
                return position
    return None


def _is_escaped(text: str, position: int) -> bool:
    """Whether an odd number of backslashes stands before a character."""
    before = text[max(0, position - 20) : position]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def last_boxed(response: str) -> str | None:
    r"""Content of the last complete `\boxed{...}` that is not empty; None if there is none.

    Only the last 200,000 characters are searched.
    """
    last = next(_boxes_from_the_end(response[-MAX_RESPONSE:]), None)
    return last.content if last else None


def final_boxes(response: str) -> list[str]:
    r"""The boxes of the final statement, in order: `$\boxed{1}$ and $\boxed{2}$` are two answers.

    Boxes belong to one statement if no sentence or paragraph ends between them. A repeated box counts once.
    """
    text = response[-MAX_RESPONSE:]
    found: list[Box] = []
    for box in _boxes_from_the_end(text):
        if found:
            between = text[box.end : found[-1].start]
            if len(between) > MAX_BETWEEN or (_STATEMENT_END.search(between) and not _LINK.fullmatch(between)):
                break
        found.append(box)
    return list(dict.fromkeys(box.content for box in reversed(found)))


def _cleaned(text: str) -> str | None:
    """A line's answer: a box in it, or its only formula with a unit after it, without emphasis and the full stop."""
    if boxed := last_boxed(text):
        return boxed
    text = re.split(r"\.\s+(?=[A-Z])", text)[0].strip().rstrip(".").strip("* _")
    text = _REASON.sub("", text[_NEUTRAL.match(text).end() :])  # type: ignore[union-attr]
    formulas = list(_MATH.finditer(text))
    if len(formulas) == 1 and not text[: formulas[0].start()].strip():
        after = text[formulas[0].end() :]
        text = next(filter(None, formulas[0].groups())) + (after if len(after.split()) <= MAX_UNIT_WORDS else "")
    return text.replace("$", " ").strip() or None


def final_answer_is(response: str) -> str | None:
    """What follows the last "(final) answer is" or "answer:", on that line or, after a heading, on the next."""
    found = None
    for found in _FINAL.finditer(response[-MAX_RESPONSE:]):  # noqa: B007
        pass
    return _cleaned(found[1] or found[2]) if found else None


def hashes(response: str) -> str | None:
    """What follows the last "####" (GSM8K) that is not the heading of a section."""
    lines = _HASHES.findall(response[-MAX_RESPONSE:])
    chosen = next((line for line in reversed(lines) if not _HEADING.match(line.strip("*_ "))), None)
    if chosen is None:
        return final_answer_is(response) if lines else None
    return final_answer_is(chosen) or _cleaned(chosen)


def choice_letter(response: str) -> str | None:
    """The letter A-J that is said to be the answer, else the last one that stands alone (multiple choice)."""
    text = response[-MAX_RESPONSE:]
    said = _SAID_CHOICE.findall(text)
    if said:
        return said[-1]
    found = [match[1] for match in _CHOICE.finditer(text) if not _ARTICLE.match(text, match.start())]
    return found[-1] if found else None


RULES: dict[str, Rule] = {
    "boxed": last_boxed,
    "final_answer_is": final_answer_is,
    "hashes": hashes,
    "choice_letter": choice_letter,
}


def extract_answer(response: str, rules: Sequence[str] = ("boxed",), is_list: bool = False) -> str | None:
    """The answer by the first rule of `RULES` that finds one, or None.

    Where the ground truth is a list (`is_list`), the boxes of the final statement are the answer.
    """
    for rule in rules:
        if rule == "boxed" and is_list and (boxes := final_boxes(response)):
            return ", ".join(boxes)
        if found := RULES[rule](response):
            return found
    return None
