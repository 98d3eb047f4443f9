"""Ulysses (arXiv 2309.14509): ranks share the tokens of a microbatch, and exchange them for heads around attention.

Every rank of a group is given the same packed microbatch and computes its part of the tokens. The logprobs of all parts
are then put together on every rank, so that the loss, which may need whole sequences, is the same on all of them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

ATTENTION = "mel_ray_ulysses"


def block_causal_mask(positions: Tensor) -> Tensor:
    """bool [1, 1, tokens, tokens]: each sequence of a packed row sees itself alone, up to the present.

    `positions`: [1, tokens], which begin again at 0 with every sequence.
    """
    sequence = (positions[0] == 0).cumsum(0)
    index = torch.arange(len(sequence), device=positions.device)
    return ((sequence[:, None] == sequence[None, :]) & (index[:, None] >= index[None, :]))[None, None]


def _sdpa(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> Any:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    mask = block_causal_mask(options["position_ids"])
    return sdpa_attention_forward(module, query, key, value, mask, **options)


class _Whole(torch.autograd.Function):
    """All parts on every rank; its gradient is the own part's, because every rank computes the same loss."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, sizes: Sequence[int], rank: int, group: Any) -> Tensor:  # type: ignore[override]
        ctx.start, ctx.size = sum(sizes[:rank]), sizes[rank]
        parts = [part.new_empty(max(sizes)) for _ in sizes]
        padded = part.new_zeros(max(sizes))
        padded[: len(part)] = part
        torch.distributed.all_gather(parts, padded, group=group)
        return torch.cat([one[:size] for one, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        return gradient[ctx.start : ctx.start + ctx.size], None, None, None


class SequenceParallel:
    """This rank's place among the `size` ranks that share a microbatch."""

    def __init__(self, size: int, model: str, attention: str) -> None:
        """Collective: all ranks must make one, with the same arguments."""
        from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF
        from transformers import AttentionInterface, AutoConfig
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        world = torch.distributed.get_world_size()
        groups = [torch.distributed.new_group(list(range(first, first + size))) for first in range(0, world, size)]
        self.size, self.rank = size, torch.distributed.get_rank() % size
        self._group = groups[torch.distributed.get_rank() // size]
        config = AutoConfig.from_pretrained(model).get_text_config()
        ulysses = UlyssesSPAttentionHF(
            attn=_sdpa if attention == "sdpa" else ALL_ATTENTION_FUNCTIONS[attention],
            batch_size=1,
            attn_head_count=config.num_attention_heads,
            attn_head_size=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            kv_head_count=config.num_key_value_heads,
            num_hidden_layers=config.num_hidden_layers,
            process_group=self._group,
            seq_length_is_variable=True,
        )
        ulysses.core_attn_implementation = attention

        def attend(
            module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, *others: Any, **options: Any
        ) -> Any:
            return ulysses(module, query, key, value, None, *others, **options)

        AttentionInterface.register(ATTENTION, attend)

    def part(self, whole: Tensor, filler: int = 0) -> Tensor:
        """This rank's tokens of [1, tokens], filled up so that all parts are equally long."""
        missing = -whole.shape[1] % self.size
        padded = torch.nn.functional.pad(whole, (0, missing), value=filler)
        return padded.chunk(self.size, dim=1)[self.rank]

    def sizes(self, chosen: Tensor) -> list[int]:
        """How many of the chosen tokens, bool [1, tokens], lie in each part."""
        padded = torch.nn.functional.pad(chosen, (0, -chosen.shape[1] % self.size))
        return [int(part.sum()) for part in padded.chunk(self.size, dim=1)]

    def whole(self, part: Tensor, sizes: Sequence[int]) -> Tensor:
        """The parts of all ranks one after another, [sum of sizes] (collective)."""
        return _Whole.apply(part, sizes, self.rank, self._group)  # type: ignore[no-untyped-call, no-any-return]
