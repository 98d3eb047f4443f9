"""The committed base model of the world of rules: what it does before any training, by band."""

import json
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def shares() -> dict[str, dict[str, float]]:
    command = [sys.executable, "-m", "benchmarks.ceilings", "--world", "rules", "--questions", "32", "--samples", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return json.loads(done.stdout.splitlines()[-1])["shares"]
