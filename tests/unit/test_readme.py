"""The commands README and docs show compose and have no problems in themselves."""

import re
import shlex
from pathlib import Path

import pytest

from mel_ray.config.checks import find_problems
from mel_ray.config.load import compose_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        found += [
            line.split("#")[0].strip()
            for line in text.splitlines()
            if line.startswith("    ") and "mel_ray.main" in line
        ]
    return found


def test_there_are_commands_to_check():
    assert len(commands()) >= 8


@pytest.mark.parametrize("command", commands())
def test_a_shown_command_composes(command):
    words = shlex.split(re.sub(r"=S\b", "=1", command.replace("|", " ")))
    overrides = [word for word in words[words.index("mel_ray.main") + 1 :] if re.match(r"[a-z/+]+[\w./+]*=", word)]
    last = list({word.split("=")[0]: word for word in overrides}.values())
    assert find_problems(compose_config(last)) == []
