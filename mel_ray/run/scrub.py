"""Secrets of the environment, such as WANDB_API_KEY: no file of a run may hold one, whoever printed it."""

import os
import re
from pathlib import Path
from typing import Any

NAMES = re.compile(r"(^|_)(API)?KEYS?(_|$)|(^|_)TOKENS?(_|$)|SECRET|PASSW(OR)?D|CREDENTIALS?")
SHORTEST = 8  # characters; a shorter value would be found in innocent text
HIDDEN = "<hidden secret>"


def known_secrets() -> list[str]:
    """Values of variables that are named as secrets are, and do not lead to a file; the longest first."""
    found = {
        value
        for name, value in os.environ.items()
        if NAMES.search(name.upper()) and len(value) >= SHORTEST and not _leads_to_file(value)
    }
    return sorted(found, key=len, reverse=True)


def _leads_to_file(value: str) -> bool:
    return value.startswith("/") and os.path.exists(value)


def scrub(text: str) -> str:
    for secret in known_secrets():
        text = text.replace(secret, HIDDEN)
    return text


def scrub_values(value: Any) -> Any:
    """The same nested values, their texts scrubbed."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, dict):
        return {name: scrub_values(one) for name, one in value.items()}
    return [scrub_values(one) for one in value] if isinstance(value, list) else value


def scrub_files(folder: Path) -> None:
    """What actors and libraries printed into the logs below a folder."""
    for file in folder.glob("*.log"):
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
        if (clean := scrub(text)) != text:
            file.write_text(clean, encoding="utf-8", errors="surrogateescape")
