"""Real public data, where it lies next to the repository; the repository carries none of it."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data"


def public(name: str) -> Path:
    """A file of public data; the test is skipped where it is absent."""
    if not (FOLDER / name).exists():
        pytest.skip(f"{name} is not next to the repository")
    return FOLDER / name
