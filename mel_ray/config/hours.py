"""How long a run may take on GPUs: its tokens over rates that others have published (conf/rates.yaml)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from mel_ray.config.plan import make_plan
from mel_ray.config.schema import Config
from mel_ray.config.templates import CONF_DIR

USED = (0.25, 0.75)  # of the token limits, from the shortest to the longest guess
GROUPS = {"none": 0.0, "mixed": 0.5, "wrong": 0.25, "both": 0.75}  # assumed shares of questions


@dataclass(frozen=True, slots=True)
class Rate:
    """`rate`: tokens per second and GPU, prompts left out. `how`: whether exploring and training overlap."""

    parameters: float
    rate: float
    how: str
    source: str


def read_rates() -> list[Rate]:
    return [Rate(**row) for row in yaml.safe_load((CONF_DIR / "rates.yaml").read_text(encoding="utf-8"))]


def rate_of(parameters: float, rates: Sequence[Rate], is_overlapping: bool) -> float:
    """Tokens per second and GPU; what alternates is slowed down as it is where both were published."""
    known = sorted((rate for rate in rates if rate.how == "overlapping"), key=lambda rate: rate.parameters)
    below = [rate for rate in known if rate.parameters <= parameters]
    above = [rate for rate in known if rate.parameters >= parameters]
    if not below or not above:
        nearest = above[0] if above else below[-1]
        found = nearest.rate * nearest.parameters / parameters
    else:
        low, high = below[-1], above[0]
        span = math.log(high.parameters / low.parameters)
        share = math.log(parameters / low.parameters) / span if span else 0.0
        found = low.rate * (high.rate / low.rate) ** share
    return found if is_overlapping else found * _slowed(rates)


def _slowed(rates: Sequence[Rate]) -> float:
    for slow in (rate for rate in rates if rate.how == "alternating"):
        for fast in rates:
            if fast.how == "overlapping" and fast.parameters == slow.parameters:
                return slow.rate / fast.rate
    return 1.0


def tokens_a_step(config: Config) -> float:
    """Sampled tokens if every sequence had its full length."""
    rollout, mel = config.rollout, config.mel
    tokens = rollout.prompts_per_step * rollout.group_size * rollout.max_tokens
    again = rollout.resample_size or rollout.group_size
    tokens += int(rollout.prompts_per_step * GROUPS[rollout.resample] * again * rollout.max_tokens)
    if mel.enabled:
        pairs = rollout.prompts_per_step * GROUPS[mel.write] * mel.pairs_per_group
        tokens += int(pairs * (mel.max_tokens + mel.replays * mel.replay_max_tokens))
    return float(tokens)


def hours_text(config: Config, parameters: float) -> str:
    """A range, and what it rests on."""
    rates, gpus = read_rates(), make_plan(config).gpus
    rate = rate_of(parameters, rates, config.is_off_policy)
    seconds = config.run.steps * tokens_a_step(config) / (rate * gpus)
    low, high = (seconds * share / 3600 for share in USED)
    return (
        f"estimated time: {low:.3g} to {high:.3g} hours for {config.run.steps} steps, if sequences have 25% to 75% of "
        f"their limits, at {rate:,.0f} tokens/s and GPU (published by others, conf/rates.yaml), evaluations left out"
    )
