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


@pytest.mark.parametrize(
    ("line", "least", "most"), [("0.5", 0.3, 0.7), ("0.1", 0.0, 0.25), ("0.01", 0.0, 0.08), ("never asked", 0.03, 0.4)]
)
def test_without_a_lesson_a_band_has_its_success_and_a_lesson_decides(shares, line, least, most):
    found = shares[line]
    assert least <= found["alone"] <= most
    assert found["right"] > 0.55
    assert found["wrong"] < 0.2
    assert found["right"] > found["alone"] + 0.1


@pytest.mark.parametrize("column", ["pair", "answer"])
def test_the_writer_knows_the_rule_half_of_the_time_also_where_the_solver_never_finds_it(shares, column):
    assert all(0.3 < found[column] < 0.75 for found in shares.values())
