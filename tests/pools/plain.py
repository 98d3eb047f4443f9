"""The updates written out plainly, sequence by sequence, in PyTorch: what ZeRO-3's results are held against."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mel_ray.data.model_folder import EMBEDDED
from mel_ray.records.question import Question, Truth
from mel_ray.records.row import Row, RowKind, rows_of_group
from mel_ray.records.step import LossSettings
from mel_ray.records.trajectory import FinishReason, Group, Prompt, Trajectory

PROMPT, OTHER = 6, "other"  # tokens of the prompt; the name of another context
OTHER_PROMPT = Prompt(Question("q with a lesson", Truth("a")), np.random.default_rng(9).integers(3, 700, 9))


def sequences(seed: int = 0, count: int = 9) -> tuple[Group, list[Row]]:
    """Nine sequences; every third is a lesson, all of which is trained but its first token."""
    rng = np.random.default_rng(seed)
    prompt = Prompt(Question("q", Truth("a")), rng.integers(3, 700, PROMPT))
    lengths = [int(n) for n in rng.integers(3, 40, count)]
    trajectories = tuple(
        Trajectory.of_one_turn(rng.integers(3, 700, n), rng.normal(-9, 2, n), "", FinishReason.STOP, 0, 0)
        for n in lengths
    )
    group = Group(prompt, trajectories)
    rows = []
    for i, row in enumerate(rows_of_group(group)):
        n, row = row.tokens, replace(row, group=0)
        if i % 3 == 0:
            lesson = replace(row, kind=RowKind.REPLAY, nll_weight=1 / (3 * n), span=(1, n), trained_tokens=n - 1)
            rows.append(lesson)
        else:
            rows.append(replace(row, credit=float(rng.choice([-1.0, 1.0])), pg_weight=1 / (count * n)))
    return group, rows


def with_guided(rows: list[Row]) -> list[Row]:
    """Three of the attempts are replays, trained as answers to another prompt than the one they were sampled from."""
    guided = {row.index for row in by_kind(rows)[0][:3]}
    context = {"kind": RowKind.REPLAY, "is_guided": True, "context": OTHER, "prompt_tokens": 9}
    return [replace(row, **context) if row.index in guided else row for row in rows]


def with_lesson(rows: list[Row]) -> list[Row]:
    """The same with a proven draft, whose replays have the other prompt."""
    replay = replace(rows[0], ref=OTHER, prompt_tokens=9)
    draft = replace(rows[0], kind=RowKind.DRAFT, ref="draft", replays=(replay,), is_proven=True, lends_credit=True)
    return [*by_kind(rows)[0], draft]


def hint_credit(model, group: Group, row: Row) -> torch.Tensor:
    """Advantage of each token of an attempt, and what the other prompt makes of it."""
    with torch.no_grad():
        bare, hinted = (logprobs_and_entropy(model, group, replace(row, context=c))[0] for c in (None, OTHER))
    return row.credit + torch.tanh(hinted - bare)


def by_kind(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Attempts and lessons."""
    return [row for row in rows if not row.is_lesson], [row for row in rows if row.is_lesson]


def load(folder: Path = EMBEDDED) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logprobs_and_entropy(model, group: Group, row: Row) -> tuple[torch.Tensor, torch.Tensor]:
    """Of its trained tokens."""
    completion = group.trajectories[row.index].token_ids
    context = (OTHER_PROMPT if row.context == OTHER else group.prompt).token_ids
    ids = torch.tensor(np.concatenate([context, completion]).astype("int64"))[None]
    full = torch.log_softmax(model(ids).logits[0, len(context) - 1 : -1], -1)[slice(*(row.span or (None,)))]
    targets = ids[0, len(context) :][slice(*(row.span or (None,)))]
    return full.gather(-1, targets[:, None])[:, 0], -(full.exp() * full).sum(-1)


def all_logprobs(model, group: Group, rows: list[Row]) -> dict[int, torch.Tensor]:
    """Of each row, by its index."""
    with torch.no_grad():
        return {row.index: logprobs_and_entropy(model, group, row)[0] for row in rows}


def kl_to_go(now: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Sums of the k1 estimates from each token on."""
    return (now - reference).flip(0).cumsum(0).flip(0)


def with_kl_in_the_return(model, initial, group: Group, rows: list[Row], coefficient: float) -> list[Row]:
    """Rows whose attempts' advantages are lowered by the KL to the reference that is to go."""
    now, reference = all_logprobs(model, group, rows), all_logprobs(initial, group, rows)
    penalties = {i: coefficient * kl_to_go(now[i], reference[i]).numpy() for i in now}
    return [row if row.is_lesson else replace(row, credit=row.credit - penalties[row.index]) for row in rows]


def clipped_tokens(model, group: Group, rows: list[Row], loss: LossSettings, old) -> int:
    """How many tokens' ratios lie outside the clip range."""
    now = all_logprobs(model, group, by_kind(rows)[0])
    ratios = [(now[index] - old[index]).exp() for index in now]
    return sum(int(((r < 1 - loss.clip_low) | (r > 1 + loss.clip_high)).sum()) for r in ratios)


def sequence_loss(model, initial, group: Group, row: Row, loss: LossSettings, old=None) -> torch.Tensor:
    """The loss of one sequence; on policy, where every ratio is one, unless `old` logprobs are given."""
    logprobs, entropy = logprobs_and_entropy(model, group, row)
    if row.is_lesson:
        return -(row.nll_weight * logprobs).sum()
    advantage, sampled = torch.as_tensor(row.credit), torch.tensor(group.trajectories[row.index].logprobs)
    if loss.surrogate == "sequence_clipped":
        ratio = torch.exp((logprobs - logprobs.detach()).mean()).expand_as(logprobs)
    else:
        ratio = torch.exp(logprobs - (old[row.index] if old else logprobs.detach()))
    if loss.denominator == "sampled":
        ratio = torch.exp(logprobs - sampled)
    bounded = ratio.clamp(1 - loss.clip_low, 1 + loss.clip_high)
    objective = torch.minimum(ratio * advantage, bounded * advantage)
    if loss.surrogate == "logprob":
        objective = logprobs * advantage
    if loss.importance_cap is not None:
        off = logprobs.detach() - sampled
        weight = (off.sum() if loss.importance_level == "sequence" else off).exp()
        is_dropped = (weight > loss.importance_cap) | (weight < (loss.importance_floor or 0.0))
        weight = weight.clamp(max=loss.importance_cap)
        objective = objective * torch.where(is_dropped & (loss.importance_mode == "mask"), 0.0, weight)
    if row.is_guided and loss.guided_correction != "none":
        weight = (logprobs.detach() - sampled).exp()
        objective = objective * (weight.clamp(max=loss.guided_cap) if loss.guided_correction == "capped" else weight)
    if loss.kl_coefficient:
        difference = logprobs - all_logprobs(initial, group, [row])[row.index]
        kl = {"k1": difference, "k2": difference**2 / 2, "k3": torch.exp(-difference) - 1 + difference}
        objective = objective - loss.kl_coefficient * kl[loss.kl_estimator]
    objective = objective + loss.entropy_coefficient * entropy
    return -(row.pg_weight * objective).sum()


def gradients(model, initial, group, rows, loss, old=None) -> tuple[float, list[torch.Tensor]]:
    """The global loss of `rows` and its gradient."""
    model.zero_grad()
    total = 0.0
    for row in rows:
        value = sequence_loss(model, initial, group, row, loss, old)
        value.backward()
        total += value.item()
    return total, [p.grad.clone() for p in model.parameters()]


def norm(tensors: list[torch.Tensor]) -> float:
    return float(torch.sqrt(sum((t.double() ** 2).sum() for t in tensors)))


def dot(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    return float(sum((a * b).sum() for a, b in zip(one, other, strict=True)))


def combined(one: list[torch.Tensor], other: list[torch.Tensor], scale: float = 1.0) -> list[torch.Tensor]:
    return [a + scale * b for a, b in zip(one, other, strict=True)]


def adamw(model, lr: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)


def apply(optimizer, model, gradient: list[torch.Tensor], max_norm: float) -> None:
    for parameter, value in zip(model.parameters(), gradient, strict=True):
        parameter.grad = value.clone()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
