"""What a rank is told at its start, and what every update is told: the loss, and what changes with the step.

Light, without torch.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mel_ray.config.schema import AlgorithmConfig, Config, MelConfig
from mel_ray.policy.registry import ALGORITHMS
from mel_ray.records.step import LossSettings


@dataclass(frozen=True, slots=True)
class LoraSettings:
    rank: int
    alpha: int
    seed: int  # of the initial adapters


@dataclass(frozen=True, slots=True)
class PolicySettings:
    model: str
    dtype: str
    device: str
    temperature: float
    attention: str
    gradient_checkpointing: bool
    head_pieces: int  # calls of the output head per microbatch, the same on every rank
    threads: int
    weight_decay: float
    betas: tuple[float, float]
    max_grad_norm: float
    skip_grad_norm: float | None = None
    has_reference: bool = False  # keep the initial policy for KL terms
    has_slow_weights: bool = False  # keep a second copy of the weights for Reptile interpolation
    is_packed: bool = False  # sequences of a microbatch lie end to end instead of in rows
    sequence_parallel: int = 1  # ranks that share a microbatch
    offload: bool = False  # optimizer state and its step on CPU
    sub_group_size: int = 1_000_000_000
    persistence_threshold: int = 100_000
    lora: LoraSettings | None = None

    @classmethod
    def of(cls, config: Config, model_folder: Path) -> "PolicySettings":
        pool, algorithm = config.cluster.policy, config.algorithm
        lora = LoraSettings(pool.lora.rank, pool.lora.alpha, config.run.seed) if pool.lora.rank else None
        return cls(
            model=str(model_folder),
            dtype=config.model.dtype,
            device=config.cluster.device,
            temperature=config.rollout.temperature,
            attention=pool.attention,
            gradient_checkpointing=pool.gradient_checkpointing,
            head_pieces=math.ceil(max(pool.token_budget, config.model.max_context) / pool.logprob_chunk),
            threads=pool.threads,
            weight_decay=algorithm.weight_decay,
            betas=algorithm.betas,
            max_grad_norm=algorithm.max_grad_norm,
            skip_grad_norm=algorithm.skip_grad_norm,
            has_reference=ALGORITHMS[algorithm.advantage].needs_reference(algorithm),
            has_slow_weights=config.mel.enabled and config.mel.reptile.every > 0,
            is_packed=pool.packing == "packed",
            sequence_parallel=pool.sequence_parallel,
            offload=pool.offload,
            sub_group_size=pool.sub_group_size,
            persistence_threshold=pool.persistence_threshold,
            lora=lora,
        )


@dataclass(frozen=True, slots=True)
class Rendezvous:
    rank: int
    local_rank: int
    world: int
    address: str
    port: int


def loss_settings(algorithm: AlgorithmConfig, mel: MelConfig | None = None) -> LossSettings:
    """`mel` None: no sample is guided."""
    kl = algorithm.kl
    return LossSettings(
        surrogate=algorithm.surrogate,
        clip_low=algorithm.clip_low,
        clip_high=algorithm.clip_high,
        dual_clip=algorithm.dual_clip,
        log_ratio_clamp=algorithm.log_ratio_clamp,
        denominator=algorithm.denominator,
        importance_cap=algorithm.importance_cap,
        importance_floor=algorithm.importance_floor,
        importance_level=algorithm.importance_level,
        importance_mode=algorithm.importance_mode,
        kl_estimator=kl.estimator,
        kl_coefficient=kl.coefficient if kl.where == "loss" else 0.0,
        needs_reference=ALGORITHMS[algorithm.advantage].needs_reference(algorithm),
        entropy_coefficient=algorithm.entropy_coefficient,
        guided_correction=mel.correction if mel else "none",
        guided_cap=mel.correction_cap if mel else 2.0,
    )


Schedule = Literal["constant", "linear", "cosine"]


def factor(schedule: Schedule, warmup_steps: int, step: int, steps: int) -> float:
    """In [0, 1] for step 1, 2, ... `steps`: linear warm-up, then constant or decaying to zero.

    It depends on the step alone, so a resumed run continues it.
    """
    warmup = min(1.0, step / warmup_steps) if warmup_steps else 1.0
    progress = min(1.0, (step - 1) / max(1, steps))
    match schedule:
        case "constant":
            decay = 1.0
        case "linear":
            decay = 1.0 - progress
        case "cosine":
            decay = 0.5 * (1.0 + math.cos(math.pi * progress))
    return warmup * decay


def learning_rate(algorithm: AlgorithmConfig, step: int, steps: int) -> float:
    return algorithm.lr * factor(algorithm.lr_schedule, algorithm.warmup_steps, step, steps)


def experience_weight(mel: MelConfig, step: int, steps: int) -> float:
    return mel.weight * factor(mel.weight_schedule, mel.weight_warmup_steps, step, steps)
