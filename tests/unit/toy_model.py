"""A causal language model small enough to differentiate in a property test."""

import torch

from mel_ray.policy.model import PolicyModel

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


def toy_policy(temperature: float = 0.9, pieces: int = 2) -> PolicyModel:
    """The same weights at every call, in float64."""
    torch.manual_seed(0)
    return PolicyModel(Causal().double(), pieces, temperature)
