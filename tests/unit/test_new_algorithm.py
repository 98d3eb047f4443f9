"""An algorithm is one file and one registry line: a toy one, added that way, is known to the check and trains."""

import importlib
import re

import numpy as np
import pytest

from mel_ray.config.checks import find_problems
from mel_ray.config.load import compose_config
from mel_ray.config.templates import CONF_DIR
from mel_ray.policy.registry import ALGORITHMS
from mel_ray.policy.rows import decide, rows_of, score, weigh_attempts
from mel_ray.policy.sequences import train_sequence
from mel_ray.records.ledger import TrajectoryFate
from mel_ray.records.problem import ConfigError
from tests.unit.builders import exploration, group

TOY = '''
"""Rewards that fade along the answer (a toy)."""

import numpy as np

from mel_ray.policy.algorithms.algorithm import Algorithm
from mel_ray.records.ledger import TrajectoryFate
from mel_ray.records.problem import Problem


class Fading(Algorithm):
    """A_t = r / (t + 1), token by token; answers of one token are left out."""

    needs_group = True

    def credit(self, groups, options, penalties):
        return [
            [0.0 if row.reward is None else (row.reward / np.arange(1, row.trained_tokens + 1)).astype(np.float32)
             for row in group]
            for group in groups
        ]

    def leave_out(self, group, options):
        return [TrajectoryFate.INCORRECT if row.trained_tokens == 1 else None for row in group]

    def problems(self, options):
        if options.surrogate != "clipped":
            yield Problem("algorithm.surrogate", options.surrogate, "a toy knows one surrogate", "use clipped")
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "fading_toy.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(ALGORITHMS, "toy", importlib.import_module("fading_toy").Fading())


def test_without_its_line_a_name_is_refused_and_the_others_are_listed():
    with pytest.raises(ConfigError) as caught:
        compose_config(["algorithm.advantage=toy"])
    assert "algorithm.advantage" in str(caught.value)
    assert all(name in str(caught.value) for name in ALGORITHMS)


@pytest.mark.usefixtures("toy")
def test_its_line_makes_an_algorithm_known_to_the_schema_and_the_check():
    cfg = compose_config(["algorithm.advantage=toy"])
    assert cfg.algorithm.advantage == "toy"
    assert find_problems(cfg) == []


@pytest.mark.usefixtures("toy")
def test_what_an_algorithm_cannot_be_combined_with_is_a_problem_with_a_remedy():
    (problem,) = find_problems(compose_config(["algorithm.advantage=toy", "algorithm.surrogate=cispo"]))
    assert str(problem) == "algorithm.surrogate=cispo: a toy knows one surrogate. Use clipped."
    problems = find_problems(compose_config(["algorithm.advantage=toy", "rollout.group_size=1"]))
    assert [one.path for one in problems] == ["rollout.group_size"]  # it needs a group


@pytest.mark.usefixtures("toy")
def test_credit_per_token_reaches_the_sequence():
    algorithm = compose_config(["algorithm.advantage=toy"]).algorithm
    rows = decide(score(rows_of([exploration((3, 2, 1, 4), "cwct")]), algorithm, 8), algorithm)
    first, second, single, unjudged = rows
    assert first.credit.tolist() == pytest.approx([1, 1 / 2, 1 / 3])
    assert (second.fate, single.fate) == (None, TrajectoryFate.INCORRECT)
    assert unjudged.fate is TrajectoryFate.VERIFIER_TIMEOUT
    trained = weigh_attempts(rows, algorithm, 8)
    assert [row.index for row in trained] == [0, 1]  # what is left out does not count in the normaliser either
    assert [row.pg_weight for row in trained] == pytest.approx([1 / (2 * 3), 1 / (2 * 2)])
    sequence = train_sequence(trained[0], {"group": group((3, 2, 1, 4))})
    assert sequence.advantages.tolist() == pytest.approx([1, 1 / 2, 1 / 3])


def test_the_documented_example_works(tmp_path, monkeypatch):
    page = (CONF_DIR.parent / "docs" / "algorithms.md").read_text()
    a_file = r"```python\n(# mel_ray/policy/algorithms/.*?)\n"
    and_a_line = r"# mel_ray/policy/registry\.py[^\n]*\n\s*\"(\w+)\": ([^\n]*),\n```"
    ((code, name, value),) = re.findall(a_file + and_a_line, page, re.DOTALL)
    (tmp_path / "documented_algorithm.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("documented_algorithm")
    monkeypatch.setitem(ALGORITHMS, name, getattr(module, value.removesuffix("()"))())
    cfg = compose_config([f"algorithm.advantage={name}"])
    assert find_problems(cfg) == []
    rows = score(rows_of([exploration((2, 2, 2), "cwt")]), cfg.algorithm, 8)
    assert len(rows) == 3
    assert np.isfinite([np.mean(row.credit) for row in rows]).all()
    assert rows[0].credit > rows[1].credit
    assert rows[2].credit == 0
