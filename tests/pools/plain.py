"""The updates written out plainly, sequence by sequence, in PyTorch: what ZeRO-3's results are held against."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mel_ray.data.model_folder import EMBEDDED
from mel_ray.records import Group, Prompt, SequenceKind, SequenceSpec, Trajectory
from mel_ray.records.update import LossSettings

PROMPT = 6


def sequences(seed: int = 0, count: int = 9) -> tuple[Group, list[SequenceSpec]]:
    """Nine sequences; every third is a lesson, a span of which is trained."""
    rng = np.random.default_rng(seed)
    prompt = Prompt("q", "q", "a", rng.integers(3, 700, PROMPT))
    lengths = [int(n) for n in rng.integers(3, 40, count)]
    trajectories = tuple(Trajectory(rng.integers(3, 700, n), rng.normal(-9, 2, n), "", "stop", 0, 0) for n in lengths)
    specs = [
        SequenceSpec(SequenceKind.REPLAY, None, i, PROMPT, n, nll_weight=1 / (3 * n), span=(1, n))
        if i % 3 == 0
        else SequenceSpec(SequenceKind.TRAJECTORY, None, i, PROMPT, n, advantage=float(rng.choice([-1.0, 1.0])),
                          pg_weight=1 / (count * n))
        for i, n in enumerate(lengths)
    ]  # fmt: skip
    return Group(prompt, trajectories), specs


def with_kl_scale(specs: list[SequenceSpec], scale: float) -> list[SequenceSpec]:
    return [spec if spec.is_experience else replace(spec, kl_scale=scale) for spec in specs]


def load(folder: Path = EMBEDDED) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logprobs_and_entropy(model, group: Group, spec: SequenceSpec) -> tuple[torch.Tensor, torch.Tensor]:
    completion = group.trajectories[spec.index].token_ids
    ids = torch.tensor(np.concatenate([group.prompt.token_ids, completion]).astype("int64"))[None]
    full = torch.log_softmax(model(ids).logits[0, PROMPT - 1 : -1], -1)
    return full.gather(-1, ids[0, PROMPT:, None])[:, 0], -(full.exp() * full).sum(-1)


def old_logprobs(model, group: Group, specs: list[SequenceSpec]) -> dict[int, torch.Tensor]:
    """Of each trajectory, by its index."""
    with torch.no_grad():
        return {spec.index: logprobs_and_entropy(model, group, spec)[0] for spec in specs}


def clipped_tokens(model, group: Group, specs: list[SequenceSpec], loss: LossSettings, old) -> int:
    """How many tokens' ratios lie outside the clip range."""
    now = old_logprobs(model, group, [spec for spec in specs if not spec.is_experience])
    ratios = [(now[index] - old[index]).exp() for index in now]
    return sum(int(((r < 1 - loss.clip_low) | (r > 1 + loss.clip_high)).sum()) for r in ratios)


def sequence_loss(model, initial, group: Group, spec: SequenceSpec, loss: LossSettings, old=None) -> torch.Tensor:
    """The loss of one sequence; on policy, where every ratio is one, unless `old` logprobs are given."""
    logprobs, entropy = logprobs_and_entropy(model, group, spec)
    if spec.is_experience:
        start, end = spec.span
        return -(spec.nll_weight * logprobs[start:end]).sum()
    with torch.no_grad():
        reference = logprobs_and_entropy(initial, group, spec)[0]
    difference = logprobs - reference
    to_go = difference.detach().flip(0).cumsum(0).flip(0)  # k1
    advantage = spec.advantage - spec.kl_scale * to_go
    if loss.surrogate == "sequence_clipped":
        ratio = torch.exp((logprobs - logprobs.detach()).mean()).expand_as(logprobs)
    else:
        ratio = torch.exp(logprobs - (old[spec.index] if old else logprobs.detach()))
    bounded = ratio.clamp(1 - loss.clip_low, 1 + loss.clip_high)
    objective = torch.minimum(ratio * advantage, bounded * advantage)
    if loss.surrogate == "logprob":
        objective = logprobs * advantage
    if loss.importance_cap is not None:
        sampled = torch.tensor(group.trajectories[spec.index].logprobs)
        off = logprobs.detach() - sampled
        off = off.sum() if loss.importance_level == "sequence" else off
        objective = objective * off.exp().clamp(max=loss.importance_cap)
    kl = {"k1": difference, "k2": difference**2 / 2, "k3": torch.exp(-difference) - 1 + difference}[loss.kl_estimator]
    objective = objective - loss.kl_in_loss * kl + loss.entropy_coefficient * entropy
    return -(spec.pg_weight * objective).sum()


def gradients(model, initial, group, specs, loss, old=None) -> tuple[float, list[torch.Tensor]]:
    """The global loss of `specs` and its gradient."""
    model.zero_grad()
    total = 0.0
    for spec in specs:
        value = sequence_loss(model, initial, group, spec, loss, old)
        value.backward()
        total += value.item()
    return total, [p.grad.clone() for p in model.parameters()]


def norm(tensors: list[torch.Tensor]) -> float:
    return float(torch.sqrt(sum((t.double() ** 2).sum() for t in tensors)))


def apply(optimizer, model, gradient: list[torch.Tensor], max_norm: float) -> None:
    for parameter, value in zip(model.parameters(), gradient, strict=True):
        parameter.grad = value.clone()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
