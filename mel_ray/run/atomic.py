"""Files that readers see with their old content or their new, never with a part."""

import json
import os
from pathlib import Path
from typing import Any


def write_atomically(file: Path, text: str) -> None:
    """Written next to the file, synced, and renamed."""
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, file)


def write_json(file: Path, value: Any) -> None:
    write_atomically(file, json.dumps(value, indent=2) + "\n")
