"""rl/objective.py, rl/policy_loss.py and rl/logprobs.py against references written out by hand."""

import math

import pytest
import torch

from mel_ray.rl.logprobs import chunked_logprobs
from mel_ray.rl.objective import TokenBatch, joint_loss, mismatch


def batch(**overrides) -> TokenBatch:
    values = {
        "pg_weight": torch.tensor([0.25, 0.25, 0.0], dtype=torch.float64),
        "nll_weight": torch.tensor([0.0, 0.0, 0.5], dtype=torch.float64),
        "advantages": torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64),
        "sampled_logprobs": torch.tensor([-1.0, -2.0, -3.0], dtype=torch.float64),
    }
    return TokenBatch(**(values | overrides))


def leaf(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def test_on_policy_gradient_is_weighted_advantage_and_nll():
    logprobs = leaf(-1.1, -2.1, -0.7)
    loss, parts = joint_loss(logprobs, batch(), 0.2, 0.2)
    loss.backward()
    # d/dlogp of -w * rho * A at rho = 1 is -w * A; of -v * logp is -v
    assert logprobs.grad.tolist() == pytest.approx([-0.25, 0.5, -0.5])
    assert parts["policy"].item() == pytest.approx(-(0.25 * 1 + 0.25 * -2))
    assert parts["nll"].item() == pytest.approx(0.35)
    assert parts["clipped"] == 0


def test_clipping_takes_the_gradient_away_only_where_it_must():
    old = torch.tensor([-1.0, -1.0, -1.0, -1.0], dtype=torch.float64)
    ratios = [1.5, 1.5, 0.5, 0.5]
    logprobs = leaf(*[-1.0 + math.log(r) for r in ratios])
    tokens = TokenBatch(
        pg_weight=torch.ones(4, dtype=torch.float64),
        nll_weight=torch.zeros(4, dtype=torch.float64),
        advantages=torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64),
        sampled_logprobs=old,
        old_logprobs=old,
    )
    loss, parts = joint_loss(logprobs, tokens, 0.2, 0.2)
    loss.backward()
    # min(rho A, clip(rho) A): 1.2, -1.5, 0.5, -0.8
    assert loss.item() == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8))
    assert logprobs.grad.tolist() == pytest.approx([0.0, 1.5, -0.5, 0.0])
    assert parts["clipped"] == 2


def test_truncated_importance_caps_the_correction():
    logprobs = leaf(-1.0, -1.0, -1.0)
    sampled = torch.tensor([-1.0, -3.0, 0.0], dtype=torch.float64)  # ratios 1, e^2, e^-1
    tokens = batch(pg_weight=torch.ones(3, dtype=torch.float64), advantages=torch.ones(3, dtype=torch.float64),
                   nll_weight=torch.zeros(3, dtype=torch.float64), sampled_logprobs=sampled)  # fmt: skip
    joint_loss(logprobs, tokens, 0.2, 0.2, importance_cap=2.0)[0].backward()
    assert logprobs.grad.tolist() == pytest.approx([-1.0, -2.0, -math.exp(-1)])


def test_no_signal_gives_zero_gradient_and_no_nan():
    logprobs = leaf(-1.0, -50.0, -0.0)
    zeros = torch.zeros(3, dtype=torch.float64)
    loss, _ = joint_loss(logprobs, batch(pg_weight=zeros, nll_weight=zeros), 0.2, 0.2)
    loss.backward()
    assert loss.item() == 0
    assert logprobs.grad.tolist() == [0, 0, 0]


def test_mismatch_of_equal_and_of_different_logprobs():
    same = torch.tensor([-1.0, -2.0])
    assert all(value == 0 for value in mismatch(same, same).values())
    differing = mismatch(torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -1.0]))
    assert differing["kl"].item() == pytest.approx(math.exp(-1) - 1 + 1)  # exp(d) - 1 - d at d = -1
    assert differing["max"].item() == 1
    assert differing["outside"].item() == 1


@pytest.mark.parametrize("pieces", [1, 2, 7, 12])
def test_chunked_logprobs_equal_a_full_softmax(pieces):
    torch.manual_seed(0)
    head = torch.nn.Linear(5, 11, bias=False)
    targets = torch.randint(0, 11, (7,))
    full_hidden = torch.randn(7, 5, requires_grad=True)
    hidden = full_hidden.detach().clone().requires_grad_()
    reference = torch.log_softmax(head(full_hidden) / 0.7, -1)
    expected_entropy = -(reference.exp() * reference).sum(-1)
    chosen, entropy = chunked_logprobs(hidden, targets, head, pieces, temperature=0.7)
    expected = reference.gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(chosen, expected)
    torch.testing.assert_close(entropy, expected_entropy)
    expected.sum().backward()
    weight_gradient = head.weight.grad.clone()
    head.weight.grad = None
    chosen.sum().backward()
    torch.testing.assert_close(hidden.grad, full_hidden.grad)
    torch.testing.assert_close(head.weight.grad, weight_gradient)
