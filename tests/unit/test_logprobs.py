"""policy/model.py: logprobs against a full softmax."""

import pytest
import torch

from mel_ray.policy.model import chunked_logprobs


@pytest.mark.parametrize("pieces", [1, 2, 7, 12])
@pytest.mark.parametrize("weight_of_entropy", [0.0, 0.3])
def test_chunked_logprobs_equal_a_full_softmax(pieces, weight_of_entropy):
    torch.manual_seed(0)
    head = torch.nn.Linear(5, 11, bias=False)
    targets = torch.randint(0, 11, (7,))
    full_hidden = torch.randn(7, 5, requires_grad=True)
    hidden = full_hidden.detach().clone().requires_grad_()
    reference = torch.log_softmax(head(full_hidden) / 0.7, -1)
    expected_entropy = -(reference.exp() * reference).sum(-1)
    chosen, entropy = chunked_logprobs(hidden, targets, head, pieces, 0.7, bool(weight_of_entropy))
    expected = reference.gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(chosen, expected)
    torch.testing.assert_close(entropy, expected_entropy)
    assert entropy.requires_grad == bool(weight_of_entropy)
    (expected.sum() + weight_of_entropy * expected_entropy.sum()).backward()
    weight_gradient = head.weight.grad.clone()
    head.weight.grad = None
    (chosen.sum() + weight_of_entropy * entropy.sum()).backward()
    torch.testing.assert_close(hidden.grad, full_hidden.grad)
    torch.testing.assert_close(head.weight.grad, weight_gradient)
