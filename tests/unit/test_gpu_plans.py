"""The keys with which the GPU tests train compose and have no problems in themselves, so that no GPU hour is lost."""

import ast
from pathlib import Path

import pytest

from mel_ray.config.checks import find_problems
from mel_ray.config.load import compose_config
from tests.gpu import test_first_hour as gpu_tests
from tests.gpu.conftest import KEYS

FILE = Path(gpu_tests.__file__)


def asked() -> list[list[str]]:
    """The arguments of every `trained(...)` in the file."""
    calls = [node for node in ast.walk(ast.parse(FILE.read_text())) if isinstance(node, ast.Call)]
    found = []
    for call in calls:
        if getattr(call.func, "id", "") == "trained":
            words = []
            for argument in call.args:
                name = getattr(getattr(argument, "value", None), "id", None)
                words += getattr(gpu_tests, name) if name else [ast.literal_eval(argument)]
            found.append(words)
    return found


def test_there_are_plans_to_check():
    assert len(asked()) >= 8


@pytest.mark.parametrize("overrides", asked(), ids=" ".join)
def test_a_plan_of_the_gpu_tests_has_no_problems(overrides):
    config = compose_config([*KEYS, "model.path=/a/model", *overrides])
    assert config.cluster.device == "cuda"
    assert find_problems(config) == []
