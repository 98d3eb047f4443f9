"""Every way to lay out a step on ranks gives the gradient and the weights of one rank with padded rows."""

import pytest
import torch

from tests.pools.forms import LOSSES, METRICS, PARTITIONED, stepped

PACKED = ("cluster.policy.packing=packed",)
FORMS = {
    "rows": (1, ()),
    "packed": (1, PACKED),
    "partitioned": (2, PARTITIONED),
    "offloaded": (1, ("cluster.policy.offload=true", "cluster.policy.sub_group_size=20000")),
    "shared by 2, partitioned": (2, (*PACKED, *PARTITIONED, "cluster.policy.sequence_parallel=2")),
    "shared by 2 of 4": (4, (*PACKED, "cluster.policy.sequence_parallel=2")),
    "shared by 4": (4, (*PACKED, "cluster.policy.sequence_parallel=4")),
}


@pytest.fixture(scope="module")
def outcomes(ray_session, tmp_path_factory):
    """What comes of a step of each form, by its name."""
    known = {}

    def outcome(name):
        if name not in known:
            known[name] = stepped(ray_session, tmp_path_factory.mktemp("form"), *FORMS[name])
        return known[name]

    return outcome


@pytest.mark.parametrize(
    "form",
    [pytest.param(name, marks=[pytest.mark.slow] if name == "shared by 4" else []) for name in FORMS if name != "rows"],
)
def test_a_form_has_the_loss_the_gradient_and_the_weights_of_padded_rows_on_one_rank(outcomes, form):
    expected, found = outcomes("rows"), outcomes(form)
    for loss in LOSSES:
        for metric in METRICS:
            wanted = expected.metrics[loss][metric]
            assert found.metrics[loss][metric] == pytest.approx(wanted, rel=2e-5, abs=1e-7), (loss, metric)
    assert found.weights.keys() == expected.weights.keys()
    for name, tensor in expected.weights.items():
        # Adam turns a gradient near zero into a step of full size, with either sign.
        assert (found.weights[name] - tensor).abs().mean() < 2e-6, name
        assert torch.equal(found.again[name], found.weights[name]), name
    for index, logprobs in expected.scores.items():
        assert torch.allclose(found.scores[index], logprobs, atol=2e-3)


def test_packed_sequences_have_no_padding(outcomes):
    rows, packed = outcomes("rows").metrics["token"], outcomes("packed").metrics["token"]
    assert packed["batch/padding_share"] == 0 < rows["batch/padding_share"]
