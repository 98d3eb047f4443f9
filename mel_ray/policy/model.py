"""The causal LM as a function from sequences to the logprobs of their completions, and the tensors it takes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mel_ray.records.sequence import TrainSequence
from mel_ray.policy.logprobs import chunked_logprobs
from mel_ray.policy.loss import TokenBatch

Microbatch = Sequence[TrainSequence]


class PolicyModel(nn.Module):
    """A causal LM with its head applied to completions alone, a piece at a time."""

    def __init__(self, causal_lm: nn.Module, pieces: int, temperature: float) -> None:
        super().__init__()
        self.causal_lm = causal_lm
        self._pieces, self._temperature = pieces, temperature

    def forward(self, ids: Tensor, predicts: Tensor, has_entropy_gradient: bool = False) -> tuple[Tensor, Tensor]:
        """`ids`: [rows, width], padded on the right; `predicts`: bool [rows, width - 1], whether a position's
        next token belongs to a completion. Returns logprobs and entropy, [completion tokens] in row order.

        Padding lies behind every real token, so causal attention needs no mask.
        """
        backbone = self.causal_lm.base_model
        hidden = backbone(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        head = self.causal_lm.get_output_embeddings()
        targets = ids[:, 1:][predicts]
        return chunked_logprobs(hidden[predicts], targets, head, self._pieces, self._temperature, has_entropy_gradient)


@dataclass(frozen=True, slots=True)
class Tensors:
    """A microbatch on the device: the model's inputs, the loss's, and `kl_scale` per token."""

    ids: Tensor
    predicts: Tensor
    tokens: TokenBatch
    kl_scale: Tensor


def collate(microbatch: Microbatch, device: torch.device) -> Tensors:
    """Pad a microbatch to its longest row; everything per token is in row order."""
    width = max(len(sequence.token_ids) for sequence in microbatch)
    ids = torch.zeros((len(microbatch), width), dtype=torch.long)
    predicts = torch.zeros((len(microbatch), width - 1), dtype=torch.bool)
    for row, sequence in enumerate(microbatch):
        length = len(sequence.token_ids)
        ids[row, :length] = torch.from_numpy(sequence.token_ids.astype("int64"))
        predicts[row, sequence.completion_start - 1 : length - 1] = True
    fields = {
        name: torch.cat([torch.from_numpy(getattr(sequence, name).copy()) for sequence in microbatch]).to(device)
        for name in ("pg_weight", "nll_weight", "advantages", "sampled_logprobs")
    }
    completions = torch.tensor([len(sequence.pg_weight) for sequence in microbatch])
    rows = torch.repeat_interleave(torch.arange(len(microbatch)), completions).to(device)
    kl_scale = torch.tensor([sequence.kl_scale for sequence in microbatch]).to(device)[rows]
    return Tensors(ids.to(device), predicts.to(device), TokenBatch(rows=rows, **fields), kl_scale)
