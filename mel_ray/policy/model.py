"""The causal LM as a function from sequences to the logprobs of their trained tokens, and the tensors it takes.

All logits never exist at once: a vocabulary of 150k in float32 costs 0.6 MB a token, so the head is applied to a
piece of the positions at a time and computed again in the backward pass.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mel_ray.policy.loss import TokenBatch
from mel_ray.records.step import TOKEN_FIELDS, TrainSequence

Head = Callable[[Tensor], Tensor]


def _chunk(
    hidden: Tensor, targets: Tensor, head: Head, temperature: float, has_entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    logits = head(hidden).float() / temperature
    log_normaliser = torch.logsumexp(logits, dim=-1)
    chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - log_normaliser
    with torch.set_grad_enabled(has_entropy_gradient and torch.is_grad_enabled()):
        probabilities = torch.exp(logits - log_normaliser.unsqueeze(-1))
        entropy = log_normaliser - (probabilities * logits).sum(-1)
    return chosen, entropy


def chunked_logprobs(
    hidden: Tensor,
    targets: Tensor,
    head: Head,
    pieces: int,
    temperature: float = 1.0,
    has_entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """log p(target) and entropy, both float32 [tokens] and under the sampling temperature.

    `hidden`: [tokens, hidden size] at the positions that predict `targets` [tokens]. The head is called exactly
    `pieces` times, on empty pieces too: under ZeRO-3 a call is a collective, and ranks differ in tokens. The entropy
    carries a gradient only where one is asked for.
    """
    parts = []
    for piece in zip(hidden.tensor_split(pieces), targets.tensor_split(pieces), strict=True):
        if torch.is_grad_enabled() and pieces > 1:
            parts.append(checkpoint(_chunk, *piece, head, temperature, has_entropy_gradient, use_reentrant=False))
        else:
            parts.append(_chunk(*piece, head, temperature, has_entropy_gradient))
    chosen, entropy = zip(*parts, strict=True)
    return torch.cat(chosen), torch.cat(entropy)


Microbatch = Sequence[TrainSequence]


class PolicyModel(nn.Module):
    """A causal LM with its head applied to trained tokens alone, a piece at a time."""

    def __init__(self, causal_lm: nn.Module, pieces: int, temperature: float) -> None:
        super().__init__()
        self.causal_lm = causal_lm
        self._pieces, self._temperature = pieces, temperature

    def forward(self, ids: Tensor, predicts: Tensor, has_entropy_gradient: bool = False) -> tuple[Tensor, Tensor]:
        """`ids`: [rows, width], padded on the right; `predicts`: bool [rows, width - 1], whether a position's
        next token is trained. Returns logprobs and entropy, [trained tokens] in row order.

        Padding follows every real token, so causal attention needs no mask.
        """
        backbone = self.causal_lm.base_model
        hidden = backbone(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        head = self.causal_lm.get_output_embeddings()
        targets = ids[:, 1:][predicts]
        return chunked_logprobs(hidden[predicts], targets, head, self._pieces, self._temperature, has_entropy_gradient)


def collate(microbatch: Microbatch, device: torch.device) -> TokenBatch:
    """Pad a microbatch to its longest row; everything per token is in row order."""
    width = max(len(sequence.token_ids) for sequence in microbatch)
    ids = torch.zeros((len(microbatch), width), dtype=torch.long)
    predicts = torch.zeros((len(microbatch), width - 1), dtype=torch.bool)
    for row, sequence in enumerate(microbatch):
        length = len(sequence.token_ids)
        ids[row, :length] = torch.from_numpy(sequence.token_ids.astype("int64"))
        predicts[row, : length - 1] = torch.from_numpy(sequence.mask[1:].copy())
    trained = torch.tensor([len(sequence.pg_weight) for sequence in microbatch])
    rows = torch.repeat_interleave(torch.arange(len(microbatch)), trained).to(device)
    fields = {name: _joined(microbatch, name, device) for name in TOKEN_FIELDS}
    return TokenBatch(ids.to(device), predicts.to(device), rows, **fields)  # type: ignore[arg-type]


def _joined(microbatch: Microbatch, name: str, device: torch.device) -> Tensor | None:
    """One array of all rows; None where no row has it. A row without it (a filler, a lesson) gets zeros."""
    if all(getattr(sequence, name) is None for sequence in microbatch):
        return None
    arrays = (getattr(sequence, name) for sequence in microbatch)
    tensors = [torch.zeros(len(sequence.pg_weight)) if array is None else torch.from_numpy(array.copy())
               for array, sequence in zip(arrays, microbatch, strict=True)]  # fmt: skip
    return torch.cat(tensors).to(device)
