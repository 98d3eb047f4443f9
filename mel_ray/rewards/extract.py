r"""Finding the final answer in a response: the last complete `\boxed{...}`, nested braces allowed."""

MAX_RESPONSE = 200_000
MAX_ANSWER = 2_000
_OPENERS = ("\\boxed{", "\\fbox{")


def last_boxed(response: str) -> str | None:
    r"""Content of the last complete `\boxed{...}`; None if there is none, so an unclosed box is no answer.

    Only the last 200,000 characters are searched, and an answer has at most 2,000.
    """
    text = response[-MAX_RESPONSE:]
    starts = sorted((start + len(opener), start) for opener in _OPENERS for start in _occurrences(text, opener))
    for content, _ in reversed(starts[-200:]):
        depth = 1
        for position in range(content, min(len(text), content + MAX_ANSWER + 1)):
            character = text[position]
            if character == "\\":
                continue
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
