"""The causal LM as a function from sequences to the logprobs of their trained tokens, and the tensors it takes.

All logits never exist at once: a vocabulary of 150k in float32 costs 0.6 MB a token, so the head is applied to a
piece of the positions at a time and computed again in the backward pass.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mel_ray.policy.loss import TokenBatch
from mel_ray.policy.sequence_parallel import SequenceParallel
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

    def __init__(
        self, causal_lm: nn.Module, pieces: int, temperature: float, parallel: SequenceParallel | None = None
    ) -> None:
        super().__init__()
        self.causal_lm = causal_lm
        self._pieces, self._temperature, self._parallel = pieces, temperature, parallel

    def forward(
        self, ids: Tensor, predicts: Tensor, positions: Tensor | None = None, has_entropy_gradient: bool = False
    ) -> tuple[Tensor, Tensor]:
        """`ids`: [rows, width], padded on the right; `predicts`: bool [rows, width - 1], whether a position's
        next token is trained. Returns logprobs and entropy, [trained tokens] in row order.

        Padding follows every real token, so causal attention needs no mask. Packed sequences lie in one row, and their
        `positions`, [1, width], begin again with each: Transformers keeps them apart by that.
        """
        if self._parallel is not None and positions is not None:
            return self._forward_in_parts(self._parallel, ids, predicts, positions, has_entropy_gradient)
        hidden = self._hidden(ids, positions)[:, :-1]
        return self._logprobs(hidden[predicts], ids[:, 1:][predicts], has_entropy_gradient)

    def _forward_in_parts(
        self, parallel: SequenceParallel, ids: Tensor, predicts: Tensor, positions: Tensor, has_entropy_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        targets, chosen = nn.functional.pad(ids[:, 1:], (0, 1)), nn.functional.pad(predicts, (0, 1))
        hidden, own = self._hidden(parallel.part(ids), parallel.part(positions)), parallel.part(chosen)
        found = self._logprobs(hidden[own], parallel.part(targets)[own], has_entropy_gradient)
        sizes = parallel.sizes(chosen)
        logprobs, entropy = (parallel.whole(one, sizes) for one in found)
        return logprobs, entropy

    def _hidden(self, ids: Tensor, positions: Tensor | None) -> Tensor:
        options = {} if positions is None else {"position_ids": positions}
        return self.causal_lm.base_model(input_ids=ids, use_cache=False, **options).last_hidden_state

    def _logprobs(self, hidden: Tensor, targets: Tensor, has_entropy_gradient: bool) -> tuple[Tensor, Tensor]:
        head = self.causal_lm.get_output_embeddings()
        return chunked_logprobs(hidden, targets, head, self._pieces, self._temperature, has_entropy_gradient)


def collate(microbatch: Microbatch, device: torch.device, is_packed: bool = False) -> TokenBatch:
    """A microbatch as tensors, padded to its longest row or packed; everything per token is in row order."""
    ids, predicts, positions = _packed(microbatch) if is_packed else (*_padded(microbatch), None)
    trained = torch.tensor([len(sequence.pg_weight) for sequence in microbatch])
    rows = torch.repeat_interleave(torch.arange(len(microbatch)), trained).to(device)
    fields = {name: _joined(microbatch, name, device) for name in TOKEN_FIELDS}
    if positions is not None:
        positions = positions.to(device)
    return TokenBatch(ids.to(device), predicts.to(device), rows, positions=positions, **fields)  # type: ignore[arg-type]


def _packed(microbatch: Microbatch) -> tuple[Tensor, Tensor, Tensor]:
    """One row: ids and positions [1, tokens], predicts [1, tokens - 1]."""
    ids = torch.cat([torch.from_numpy(sequence.token_ids.astype("int64")) for sequence in microbatch])
    positions = torch.cat([torch.arange(len(sequence.token_ids)) for sequence in microbatch])
    # A mask never trains a first token, so the last token of a sequence predicts nothing.
    mask = torch.cat([torch.from_numpy(sequence.mask.copy()) for sequence in microbatch])
    return ids[None], mask[None, 1:], positions[None]


def _padded(microbatch: Microbatch) -> tuple[Tensor, Tensor]:
    """ids [rows, width], predicts [rows, width - 1]."""
    width = max(len(sequence.token_ids) for sequence in microbatch)
    ids = torch.zeros((len(microbatch), width), dtype=torch.long)
    predicts = torch.zeros((len(microbatch), width - 1), dtype=torch.bool)
    for row, sequence in enumerate(microbatch):
        length = len(sequence.token_ids)
        ids[row, :length] = torch.from_numpy(sequence.token_ids.astype("int64"))
        predicts[row, : length - 1] = torch.from_numpy(sequence.mask[1:].copy())
    return ids, predicts


def _joined(microbatch: Microbatch, name: str, device: torch.device) -> Tensor | None:
    """One array of all rows; None where no row has it. A row without it (a filler, a lesson) gets zeros."""
    if all(getattr(sequence, name) is None for sequence in microbatch):
        return None
    arrays = (getattr(sequence, name) for sequence in microbatch)
    tensors = [torch.zeros(len(sequence.pg_weight)) if array is None else torch.from_numpy(array.copy())
               for array, sequence in zip(arrays, microbatch, strict=True)]  # fmt: skip
    return torch.cat(tensors).to(device)
