"""From verdicts to the credit of each trajectory: shaped rewards, then the configured advantage estimator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mel_ray.config.schema import AlgorithmConfig
from mel_ray.records.arrays import Floats
from mel_ray.records.exploration import Exploration
from mel_ray.records.update import KlFacts
from mel_ray.records.verdict import Outcome
from mel_ray.policy.advantages import (
    batch_whitened,
    correct_only,
    group_centred,
    group_standardised,
    leave_one_out,
    token_moments,
)
from mel_ray.policy.shaping import overlong_penalty, shaped

Kl = Mapping[tuple[int, int], KlFacts]  # (question, trajectory) -> its KL to the reference


@dataclass(frozen=True, slots=True)
class Credit:
    """The advantage of a trajectory's token t is `advantage - kl_scale * K_t`, K_t being its KL to go."""

    advantage: float
    kl_scale: float = 0.0


def shaped_rewards(explored: Exploration, algorithm: AlgorithmConfig, max_tokens: int) -> list[float | None]:
    """Rewards of one group as the estimators see them: wrong answers' value and DAPO's overlong penalty applied."""
    zone = algorithm.overlong_zone
    rewards = []
    for reward, length in zip(explored.verdict.rewards, explored.group.facts.lengths, strict=True):
        penalty = overlong_penalty(length, max_tokens, zone * max_tokens) * algorithm.overlong_penalty if zone else 0.0
        rewards.append(shaped(reward, algorithm.incorrect_reward, penalty))
    return rewards


def assign_credit(
    explored: Sequence[Exploration], algorithm: AlgorithmConfig, max_tokens: int, kl: Kl | None = None
) -> list[list[Credit]]:
    """The credit of every trajectory of every question.

    `kl` is given where the KL penalty belongs to the reward or to the return. In the reward, group estimators
    lower a trajectory's reward by beta times its total KL before they compare (verl). In the return, they
    compare first and lower each token's advantage by beta times its KL to go (OpenRLHF). The whitened estimators
    take the return either way, and whiten it (REINFORCE++).
    """
    rewards = [shaped_rewards(one, algorithm, max_tokens) for one in explored]
    if is_whitened(algorithm):
        if algorithm.advantage == "group_centred_batch_whitened":
            rewards = [_keep_unjudged(group, group_centred(group).tolist()) for group in rewards]
        return _whitened(explored, rewards, algorithm, kl)
    if kl and algorithm.kl.where == "reward":
        beta = algorithm.kl.coefficient
        rewards = [
            [None if r is None else r - beta * kl[q, i].total for i, r in enumerate(group)]
            for q, group in enumerate(rewards)
        ]
    scale = algorithm.kl.coefficient if algorithm.kl.where == "return" else 0.0
    result = []
    for exploration, group in zip(explored, rewards, strict=True):
        advantages = _of_group(exploration, group, algorithm).tolist()
        result.append(
            [Credit(a, 0.0 if reward is None else scale) for a, reward in zip(advantages, group, strict=True)]
        )
    return result


def is_whitened(algorithm: AlgorithmConfig) -> bool:
    """Whether the estimator looks at the whole batch."""
    return algorithm.advantage in ("batch_whitened", "group_centred_batch_whitened")


def _of_group(exploration: Exploration, rewards: Sequence[float | None], algorithm: AlgorithmConfig) -> Floats:
    match algorithm.advantage:
        case "group_standardised":
            return group_standardised(rewards, algorithm.advantage_eps)
        case "group_centred":
            return group_centred(rewards)
        case "leave_one_out":
            return leave_one_out(rewards)
        case _:
            return correct_only([v.outcome is Outcome.CORRECT for v in exploration.verdict.verdicts])


def _keep_unjudged(rewards: Sequence[float | None], values: Sequence[float]) -> list[float | None]:
    return [None if reward is None else value for reward, value in zip(rewards, values, strict=True)]


def _whitened(
    explored: Sequence[Exploration],
    rewards: Sequence[Sequence[float | None]],
    algorithm: AlgorithmConfig,
    kl: Kl | None,
) -> list[list[Credit]]:
    flat = [reward for group in rewards for reward in group]
    lengths = [length for one in explored for length in one.group.facts.lengths]
    if not kl:
        values = iter(batch_whitened(flat, lengths, algorithm.advantage_eps).tolist())
        return [[Credit(next(values)) for _ in group] for group in rewards]
    # Returns r - beta K_t differ from token to token; their moments follow from the sums of K_t and K_t^2.
    beta, keys = algorithm.kl.coefficient, [(q, i) for q, group in enumerate(rewards) for i in range(len(group))]
    judged = [(r, n, kl[key]) for r, n, key in zip(flat, lengths, keys, strict=True) if r is not None]
    tokens = sum(n for _, n, _ in judged)
    mean_reward, reward_std = token_moments([r for r, _, _ in judged], [n for _, n, _ in judged])
    mean_kl = sum(facts.to_go_sum for _, _, facts in judged) / max(1, tokens)
    square_kl = sum(facts.to_go_square_sum for _, _, facts in judged) / max(1, tokens)
    product = sum(r * facts.to_go_sum for r, _, facts in judged) / max(1, tokens)
    variance = reward_std**2 - 2 * beta * (product - mean_reward * mean_kl) + beta**2 * (square_kl - mean_kl**2)
    mean, scale = mean_reward - beta * mean_kl, max(0.0, variance) ** 0.5 + algorithm.advantage_eps
    return [
        [Credit(0.0) if r is None else Credit((r - mean) / scale, beta / scale) for r in group] for group in rewards
    ]
