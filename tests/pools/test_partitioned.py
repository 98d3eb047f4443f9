"""ZeRO-3 that really partitions: at the embedded model's size nothing is, unless the threshold is 0.

On 2 and 4 ranks, in both types, with an output head of its own and without, against one rank that holds everything.
"""

import pytest
import torch

from mel_ray.data.model_folder import EMBEDDED
from tests.pools.forms import LOSSES, METRICS, PARTITIONED, stepped
from tests.pools.test_pools import untied_copy

pytestmark = pytest.mark.slow
TOLERANCE = {"float32": 2e-5, "bfloat16": 3e-2}  # relative, of a metric


@pytest.fixture(scope="module")
def outcomes(ray_session, tmp_path_factory):
    known = {}
    untied = untied_copy(tmp_path_factory.mktemp("models") / "untied")

    def outcome(ranks, dtype, tied):
        key = ranks, dtype, tied
        if key not in known:
            overrides = (f"model.dtype={dtype}", *(PARTITIONED if ranks > 1 else ()))
            folder = tmp_path_factory.mktemp("partitioned")
            known[key] = stepped(ray_session, folder, ranks, overrides, EMBEDDED if tied else untied)
        return known[key]

    return outcome


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_partitioned_ranks_make_the_step_of_one_that_holds_everything(outcomes, ranks, dtype, tied):
    expected, found = outcomes(1, dtype, tied), outcomes(ranks, dtype, tied)
    for loss in LOSSES:
        for metric in METRICS:
            wanted = expected.metrics[loss][metric]
            tolerance = TOLERANCE[dtype]
            assert found.metrics[loss][metric] == pytest.approx(wanted, rel=tolerance, abs=tolerance / 10), metric
    assert ("lm_head.weight" in found.weights) == (not tied)
    for name, tensor in expected.weights.items():
        difference = (found.weights[name].float() - tensor.float()).abs().mean()
        assert difference < (2e-6 if dtype == "float32" else 2e-4), name
        assert torch.equal(found.again[name], found.weights[name]), name
