"""engines/policy_model.py: padding and the company a sequence keeps change neither its loss nor its gradient."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mel_ray.policy.model import PolicyModel, collate
from mel_ray.policy.statistics import with_references
from mel_ray.records import TrainSequence
from mel_ray.records.update import LossSettings
from mel_ray.policy.loss import joint_loss

VOCABULARY, HIDDEN = 11, 6


class Backbone(torch.nn.Module):
    """Causal: a position sees the mean of what came before it and itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCABULARY, HIDDEN)

    def forward(self, input_ids, use_cache):
        embedded = self.embedding(input_ids)
        counts = torch.arange(1, input_ids.shape[1] + 1)[None, :, None]
        return type("Output", (), {"last_hidden_state": torch.tanh(embedded.cumsum(1) / counts + embedded)})


class Causal(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base_model = Backbone()
        self.head = torch.nn.Linear(HIDDEN, VOCABULARY, bias=False)

    def get_output_embeddings(self):
        return self.head


@st.composite
def sequences(draw):
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    made = []
    for number in range(draw(st.integers(1, 6))):
        prompt, completion = draw(st.integers(1, 5)), draw(st.integers(1, 7))
        is_lesson = number % 3 == 2
        weight = np.full(completion, 0.1)
        none = np.zeros(completion)
        made.append(
            TrainSequence(rng.integers(0, VOCABULARY, prompt + completion), prompt,
                          none if is_lesson else weight, weight if is_lesson else none,
                          np.full(completion, rng.normal()), rng.normal(-2, 1, completion), kl_scale=0.3)
        )  # fmt: skip
    order = draw(st.permutations(made))
    cut = draw(st.integers(1, len(made)))
    return made, [part for part in (order[:cut], order[cut:]) if part]


@settings(max_examples=40)
@given(sequences(), st.sampled_from([LossSettings(), LossSettings("sequence_clipped"), LossSettings(kl_in_reward=0.1)]))
def test_loss_and_gradient_do_not_depend_on_padding_or_company(drawn, loss):
    made, parts = drawn
    torch.manual_seed(0)
    model = PolicyModel(Causal().double(), pieces=2, temperature=0.9)

    def total(batches) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        value = torch.zeros((), dtype=torch.float64)
        for batch in batches:
            tensors = collate(batch, torch.device("cpu"))
            logprobs, entropy = model(tensors.ids, tensors.predicts)
            current = logprobs.detach()
            reference = current - 0.1 if loss.needs_reference else None
            tokens = with_references(tensors, None, reference, current, loss)
            value = value + joint_loss(logprobs, entropy, tokens, loss)[0]
        value.backward()
        return value.item(), torch.cat([p.grad.flatten() for p in model.parameters()])

    alone, alone_gradient = total([[sequence] for sequence in made])
    together, together_gradient = total([made])
    split, split_gradient = total(parts)
    for value, gradient in ((together, together_gradient), (split, split_gradient)):
        assert abs(value - alone) < 1e-5 * max(1.0, abs(alone))
        torch.testing.assert_close(gradient, alone_gradient, rtol=1e-4, atol=1e-6)
