"""Random batches, padded as the peers want them, and our loss on the same numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from mel_ray.policy.loss import TokenBatch, joint_loss
from mel_ray.policy.registry import AGGREGATIONS
from mel_ray.records.step import LossSettings

ROWS, WIDTH, SEEDS = 6, 9, range(5)


@dataclass(frozen=True)
class Batch:
    """All [rows, width] in float64 but `advantages` [rows]; `mask` marks the tokens there are."""

    logprobs: Tensor
    old: Tensor
    reference: Tensor
    sampled: Tensor
    entropy: Tensor
    advantages: Tensor
    mask: Tensor

    @property
    def lengths(self) -> list[int]:
        return self.mask.sum(-1).long().tolist()


def make_batch(seed: int, is_on_policy: bool = False) -> Batch:
    """Ratios between about 0.3 and 3, so that every kind of clipping takes part; one row is full, others are not."""
    generator = torch.Generator().manual_seed(seed)

    def normal(scale: float) -> Tensor:
        return scale * torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64)

    old = -normal(1.0).abs() - 0.1
    logprobs = old.clone() if is_on_policy else old + normal(0.5)
    lengths = torch.randint(1, WIDTH, (ROWS,), generator=generator)
    lengths[0] = WIDTH
    mask = (torch.arange(WIDTH)[None] < lengths[:, None]).double()
    advantages = torch.randn(ROWS, generator=generator, dtype=torch.float64)
    return Batch(
        logprobs.requires_grad_(), old, old + normal(0.5), old + normal(0.3), normal(1.0).abs(), advantages, mask
    )


def ours(batch: Batch, loss: LossSettings, aggregation: str, max_tokens: int = WIDTH) -> tuple[float, Tensor]:
    """Loss, and gradient with respect to the logprobs, [rows, width]."""
    logprobs = batch.logprobs.detach().clone().requires_grad_()
    chosen = batch.mask.bool()
    weights = torch.tensor(AGGREGATIONS[aggregation](batch.lengths, max_tokens), dtype=torch.float64)
    rows = torch.arange(ROWS)[:, None].expand(ROWS, WIDTH)
    tokens = TokenBatch(
        ids=torch.zeros(ROWS, WIDTH + 1, dtype=torch.long),  # the loss itself does not look at the model's inputs
        predicts=chosen,
        pg_weight=weights[:, None].expand(ROWS, WIDTH)[chosen],
        nll_weight=torch.zeros(int(chosen.sum()), dtype=torch.float64),
        advantages=batch.advantages[:, None].expand(ROWS, WIDTH)[chosen],
        sampled_logprobs=batch.sampled[chosen],
        rows=rows[chosen],
        old_logprobs=batch.old[chosen],
        reference_logprobs=batch.reference[chosen] if loss.needs_reference else None,
    )
    value, _ = joint_loss(logprobs[chosen], batch.entropy[chosen], tokens, loss)
    value.backward()
    return value.item(), logprobs.grad


def assert_same(batch: Batch, theirs: Tensor, our_value: float, our_gradient: Tensor) -> None:
    """Both losses and gradients agree to 1e-6, relative to the largest entry."""
    theirs.backward()
    gradient = batch.logprobs.grad
    assert gradient.dtype == our_gradient.dtype == torch.float64
    assert abs(theirs.item() - our_value) <= 1e-6 * max(1e-3, abs(our_value))
    assert float((gradient - our_gradient).abs().max()) <= 1e-6 * float(our_gradient.abs().max())
    assert float(our_gradient.abs().max()) > 0


@contextmanager
def float64() -> Iterator[None]:
    """Tensors that a peer makes without naming a type are float64 too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
