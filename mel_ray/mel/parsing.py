"""Strict parsing of a written meta-experience into M = (s*, C, H), and the leak check.

The text is model output: it is cut, searched and compared, with bounded lengths and literal headers.
"""

import re

from mel_ray.config.templates import MelTemplate
from mel_ray.records.experience import Experience

MAX_CHARACTERS = 40_000
_BULLET = re.compile(r"^\s*(?:[-*+]|\d{1,2}[.)])\s+")


class ParseFailure(ValueError):
    """The text is not a meta-experience; the message says in a few words why."""


def _headers(text: str, template: MelTemplate) -> list[tuple[int, int]]:
    """Where each section's header stands: in order, each exactly once and at the start of a line, nothing before."""
    position = 0
    spans: list[tuple[int, int]] = []
    for section in template.sections:
        found = list(re.finditer(rf"^[ \t]*{re.escape(section.header)}", text, re.MULTILINE | re.IGNORECASE))
        if len(found) != 1:
            raise ParseFailure(f"section {section.header!r} {'is missing' if not found else 'is repeated'}")
        if found[0].start() < position:
            raise ParseFailure(f"section {section.header!r} is out of order")
        spans.append(found[0].span())
        position = found[0].end()
    if text[: spans[0][0]].strip():
        raise ParseFailure("text before the first section")
    return spans


def _sections(text: str, template: MelTemplate) -> list[str]:
    """The body of each section."""
    spans, bodies = _headers(text, template), []
    for number, (_, start) in enumerate(spans):
        end = spans[number + 1][0] if number + 1 < len(spans) else len(text)
        body = text[start:end].strip()
        if not body:
            raise ParseFailure(f"section {template.sections[number].header!r} is empty")
        bodies.append(body)
    return bodies


def _heuristics(body: str, template: MelTemplate) -> list[str]:
    lines = [_BULLET.sub("", line).strip() for line in body.splitlines()]
    lines = [line for line in lines if line]
    if template.heuristic_pattern:
        pattern = re.compile(template.heuristic_pattern)
        for line in lines:
            if not pattern.fullmatch(line):
                raise ParseFailure(f"not a heuristic: {line[:80]!r}")
    return lines


def parse_experience(text: str, template: MelTemplate) -> Experience:
    """Parse M = (s*, C, H) as the template's sections demand (MEL Eqs. 2-5).

    Raises:
        ParseFailure: a section is missing, repeated, empty or out of order, text precedes the first one, or
            a heuristic does not have the demanded form.
    """
    if len(text) > MAX_CHARACTERS:
        raise ParseFailure(f"longer than {MAX_CHARACTERS} characters")
    parts: dict[str, list[str]] = {"bifurcation": [], "critique": [], "heuristics": []}
    for section, body in zip(template.sections, _sections(text, template), strict=True):
        for field in section.fields:
            if field == "heuristics":
                parts[field] += _heuristics(body, template)
            elif field == "bifurcation" and template.bifurcation_pattern:
                match = re.search(template.bifurcation_pattern, body)
                if not match:
                    raise ParseFailure("the section names no bifurcation point")
                parts[field].append(match[1].strip())
            else:
                parts[field].append(body)
    missing = [name for name, values in parts.items() if not values]
    if missing:
        raise ParseFailure(f"no {missing[0]}")
    return Experience("\n".join(parts["bifurcation"]), "\n\n".join(parts["critique"]), tuple(parts["heuristics"]))


def heuristics_characters(text: str, template: MelTemplate) -> tuple[int, int]:
    """Start and end in `text` of the sections that feed the heuristics, headers included; `text` parses."""
    headers = _headers(text, template)
    feeding = [number for number, section in enumerate(template.sections) if "heuristics" in section.fields]
    after = feeding[-1] + 1
    return headers[feeding[0]][0], headers[after][0] if after < len(headers) else len(text)


def leaks_answer(experience: Experience, answer: str, text: str = "") -> bool:
    """Whether a heuristic states the ground-truth answer: heuristics must hold for future problems (MEL 3.2); or `text`
    does, which is all of M where its writer was told the answer: a replay could copy it.

    The answer counts as stated where it stands alone: "12" is not in "112", "1.2" or "12th".
    """
    needle = "".join(answer.split()).casefold()
    if not needle:
        return False
    alone = re.compile(rf"(?<![\w.]){re.escape(needle)}(?!\w|\.\d)")
    spaced = re.compile(rf"(?<![\w.]){re.escape(answer.strip().casefold())}(?!\w|\.\d)")
    return any(
        alone.search(rule.casefold()) or spaced.search(rule.casefold()) for rule in (*experience.heuristics, text)
    )
