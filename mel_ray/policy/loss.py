"""The joint loss of a microbatch: policy gradient and meta-experience NLL over the same tokens (MEL Eq. 9-10).

Its parts, from the inside out: KL estimates, surrogate objectives (to be maximised), importance weights, their sum.
Every tensor is [tokens]. `rows` names the row of the microbatch a token belongs to, for what is defined per sequence; a
sequence never spans two microbatches.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mel_ray.records.step import KlEstimator, LossSettings


def kl_estimate(logprobs: Tensor, reference: Tensor, estimator: KlEstimator) -> Tensor:
    """Estimates of KL(pi || reference) from sampled tokens, [tokens].

    With d = log pi - log reference at a token sampled from pi (http://joschu.net/blog/kl-approx.html): k1 = d,
    unbiased, of any sign; k2 = d^2 / 2, biased, low variance; k3 = exp(-d) - 1 + d, unbiased, never negative. As a
    loss on policy, only k2 has the gradient of KL(pi || reference) in expectation; k1's is zero, and k3's is that of
    KL(reference || pi). In the reward, where no gradient flows, k1 is the usual choice.

    Failure case: k3 overflows where the policy gave up a token the reference likes (d below about -88 in float32).
    """
    difference = logprobs - reference
    match estimator:
        case "k1":
            return difference
        case "k2":
            return 0.5 * difference**2
        case "k3":
            return (-difference).exp() - 1.0 + difference


def log_ratio(logprobs: Tensor, old_logprobs: Tensor, clamp: float | None = None) -> Tensor:
    """log rho = logp - old logp, held within [-clamp, clamp] (verl: 20), which takes the gradient away outside."""
    difference = logprobs - old_logprobs
    return difference if clamp is None else difference.clamp(-clamp, clamp)


def row_means(values: Tensor, rows: Tensor) -> Tensor:
    """Mean over the tokens of a token's row, at each of its tokens."""
    count = int(rows.max()) + 1 if rows.numel() else 0
    sums = values.new_zeros(count).index_add(0, rows, values)
    sizes = values.new_zeros(count).index_add(0, rows, torch.ones_like(values))
    return (sums / sizes)[rows]


def sequence_ratio(log_ratios: Tensor, rows: Tensor) -> Tensor:
    """s = exp(mean of log rho over the sequence), at each of its tokens (GSPO, arXiv 2507.18071).

    Failure case: one token with a huge ratio moves the whole sequence out of the clip range.
    """
    return row_means(log_ratios, rows).exp()


def clipped(ratio: Tensor, advantages: Tensor, low: float, high: float, dual: float | None = None) -> Tensor:
    """min(rho A, clip(rho, 1 - low, 1 + high) A) (PPO, arXiv 1707.06347; MEL Eq. 10).

    `dual` c > 1: where A < 0 the objective is at least c A, max(that, c A) (dual clip, arXiv 1912.09729).
    Failure case: without `dual`, a negative advantage with a large ratio has an unbounded gradient.
    """
    objective = torch.minimum(ratio * advantages, ratio.clamp(1.0 - low, 1.0 + high) * advantages)
    if dual is None:
        return objective
    return torch.where(advantages < 0, torch.maximum(objective, dual * advantages), objective)


def cispo(ratio: Tensor, logprobs: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """sg(clip(rho, 1 - low, 1 + high)) A logp: weights are clipped, no token's gradient is dropped (CISPO, arXiv
    2506.13585).

    The paper leaves the lower side open: `low` = 1. Failure case: off policy, a stale token keeps a weight of up to
    1 + high for as long as it is trained on.
    """
    return ratio.clamp(1.0 - low, 1.0 + high).detach() * advantages * logprobs


def surrogate(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, rows: Tensor, loss: LossSettings
) -> tuple[Tensor, Tensor]:
    """The objective of each token and whether clipping took its gradient away (for CISPO: bounded its weight).

    - clipped: `clipped` on token ratios (GRPO, DAPO, REINFORCE++, ...)
    - sequence_clipped: `clipped` on `sequence_ratio` (GSPO)
    - cispo: `cispo`
    - logprob: A logp, no ratio: the plain score function, NLL where A = 1 (RFT)

    Where `old_logprobs` is `logprobs.detach()`, every ratio is 1, and the gradient of each is A * grad logp.
    """
    if loss.surrogate == "logprob":
        return advantages * logprobs, torch.zeros_like(logprobs, dtype=torch.bool)
    difference = log_ratio(logprobs, old_logprobs, loss.log_ratio_clamp)
    ratio = sequence_ratio(difference, rows) if loss.surrogate == "sequence_clipped" else difference.exp()
    is_outside = (ratio < 1.0 - loss.clip_low) | (ratio > 1.0 + loss.clip_high)
    if loss.surrogate == "cispo":
        return cispo(ratio, logprobs, advantages, loss.clip_low, loss.clip_high), is_outside
    objective = clipped(ratio, advantages, loss.clip_low, loss.clip_high, loss.dual_clip)
    return objective, (objective != ratio * advantages).detach()


def importance_weights(
    old_logprobs: Tensor, sampled_logprobs: Tensor, rows: Tensor, loss: LossSettings
) -> tuple[Tensor, Tensor]:
    """pi_old / pi_sampled, detached, and whether it lay outside [floor, cap]; needs a cap.

    It corrects for samples of an older policy, and for engine and trainer disagreeing on logprobs. Per token, or of the
    whole sequence: the product of its tokens' ratios. What lies outside is held at the bound (truncated importance
    sampling) or set to zero (mask; with both bounds IcePop, arXiv 2510.18855).

    Failure case: a sequence's ratio leaves any range with its length; watch `importance/outside_share`.
    """
    difference = old_logprobs - sampled_logprobs
    if loss.importance_level == "sequence":
        count = int(rows.max()) + 1 if rows.numel() else 0
        difference = difference.new_zeros(count).index_add(0, rows, difference)[rows]
    ratio = difference.exp().detach()
    is_outside = ratio > loss.importance_cap
    if loss.importance_floor is not None:
        is_outside |= ratio < loss.importance_floor
    if loss.importance_mode == "mask":
        return ratio.masked_fill(is_outside, 0.0), is_outside
    return ratio.clamp(loss.importance_floor, loss.importance_cap), is_outside


def guided_ratios(before: Tensor, sampled_logprobs: Tensor) -> Tensor:
    """pi(y_t given x) / pi(y_t given x, M) of tokens that were sampled with M in the prompt, detached: the bare policy
    to the guided one at each token (Guide, arXiv 2506.13923).

    Failure case: far apart policies leave few tokens with weight; watch `guide/effective_share`.
    """
    return (before - sampled_logprobs).exp().detach()


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """A microbatch on the device. `ids`: [rows, width]; `predicts`: bool [rows, width - 1], whether a position's next
    token is trained; `positions`: [1, width] where sequences are packed into one row, else None; the others are
    aligned, [trained tokens of the microbatch].

    `guided` is positive where a token was sampled with a meta-experience in the prompt; None: nowhere.

    `rows` is the row of each token, ascending. `old_logprobs`: under the policy before the update; None: the current
    ones, detached. `versions`: of the weights that sampled each token; None: unknown.
    """

    ids: Tensor
    predicts: Tensor
    rows: Tensor
    pg_weight: Tensor
    nll_weight: Tensor
    advantages: Tensor
    sampled_logprobs: Tensor
    old_logprobs: Tensor | None = None
    reference_logprobs: Tensor | None = None
    versions: Tensor | None = None
    guided: Tensor | None = None
    positions: Tensor | None = None

    @property
    def is_guided(self) -> Tensor:
        """Which tokens were sampled with a meta-experience in the prompt, bool [tokens]."""
        return torch.zeros_like(self.rows, dtype=torch.bool) if self.guided is None else self.guided > 0

    def before_update(self, logprobs: Tensor) -> Tensor:
        """Logprobs under the policy before the update; `logprobs` are the current ones."""
        return logprobs.detach() if self.old_logprobs is None else self.old_logprobs

    def denominator(self, logprobs: Tensor, loss: LossSettings) -> Tensor:
        """Logprobs of the ratio's denominator; `logprobs` are the current ones. Of a guided token always those before
        the update: what it was sampled with is `guided_correction`'s."""
        before = self.before_update(logprobs)
        if loss.denominator != "sampled":
            return before
        return torch.where(self.is_guided, before, self.sampled_logprobs)

    def chosen(self, logprobs: Tensor, which: Tensor) -> "TokenBatch":
        """Some of the tokens alone, without the model's inputs; `logprobs` are the current ones of all tokens."""
        return TokenBatch(
            ids=self.ids[:0],
            predicts=self.predicts[:0],
            rows=self.rows[which],
            pg_weight=self.pg_weight[which],
            nll_weight=self.nll_weight[which],
            advantages=self.advantages[which],
            sampled_logprobs=self.sampled_logprobs[which],
            old_logprobs=self.before_update(logprobs)[which],
            reference_logprobs=None if self.reference_logprobs is None else self.reference_logprobs[which],
            versions=None if self.versions is None else self.versions[which],
            guided=None if self.guided is None else self.guided[which],
        )


def joint_loss(
    logprobs: Tensor, entropy: Tensor, tokens: TokenBatch, loss: LossSettings
) -> tuple[Tensor, dict[str, Tensor]]:
    """- sum_t [ pg_weight (surrogate - beta kl + c entropy) + nll_weight logp ]: a plain sum, the weights being global.

    `logprobs`, `entropy`: [tokens]. Returns the scalar loss and detached parts: `policy` and `nll` (weighted), `kl`
    (unweighted sum over policy tokens), and, as bool [policy tokens], `clipped` and `outside` (the importance weight
    lay outside its bounds). A token with both weights zero contributes neither loss nor gradient.
    """
    is_policy = tokens.pg_weight > 0
    # Weightless tokens are left out before anything is computed: zero times an overflow would be NaN.
    chosen = tokens.chosen(logprobs, is_policy)
    objective, parts = _policy_objective(logprobs[is_policy], entropy[is_policy], chosen, loss)
    policy = -(chosen.pg_weight * objective).sum()
    nll = -(tokens.nll_weight * logprobs).sum()
    return policy + nll, {"policy": policy.detach(), "nll": nll.detach(), **parts}


def _policy_objective(
    logprobs: Tensor, entropy: Tensor, tokens: TokenBatch, loss: LossSettings
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective, [policy tokens], and the parts `kl`, `clipped` and `outside` of `joint_loss`.

    With importance weights it is the decoupled objective of arXiv 2505.24298: pi_old / pi_sampled times the surrogate
    of pi / pi_old.
    """
    old = tokens.denominator(logprobs, loss)
    objective, is_clipped = surrogate(logprobs, old, tokens.advantages, tokens.rows, loss)
    is_outside = torch.zeros_like(is_clipped)
    if loss.importance_cap is not None:
        weights, is_outside = importance_weights(old, tokens.sampled_logprobs, tokens.rows, loss)
        is_outside = is_outside & ~tokens.is_guided
        objective = torch.where(tokens.is_guided, objective, objective * weights)
    if tokens.guided is not None and loss.guided_correction != "none":
        ratios = guided_ratios(tokens.before_update(logprobs), tokens.sampled_logprobs)
        ratios = ratios.clamp(max=loss.guided_cap) if loss.guided_correction == "capped" else ratios
        objective = torch.where(tokens.is_guided, ratios * objective, objective)
    kl_sum = logprobs.new_zeros(())
    if tokens.reference_logprobs is not None:
        kl = kl_estimate(logprobs, tokens.reference_logprobs, loss.kl_estimator)
        kl_sum = kl.detach().sum()
        if loss.kl_coefficient:
            objective = objective - loss.kl_coefficient * kl
    if loss.entropy_coefficient:
        objective = objective + loss.entropy_coefficient * entropy
    return objective, {"kl": kl_sum, "clipped": is_clipped, "outside": is_outside}


def mismatch(logprobs: Tensor, sampled_logprobs: Tensor) -> dict[str, Tensor]:
    """How far the engine's logprobs are from the trainer's, over tokens both computed with the same weights.

    `kl` sums the k3 estimate exp(d) - 1 - d of KL(engine || trainer), d = trainer - engine; `max` is max |d|;
    `outside` counts ratios outside [0.8, 1.25].
    """
    delta = (logprobs - sampled_logprobs).detach().float()
    ratio = delta.exp()
    return {
        "kl": (ratio - 1 - delta).sum(),
        "max": delta.abs().max() if delta.numel() else delta.new_zeros(()),
        "outside": torch.logical_or(ratio < 0.8, ratio > 1.25).sum(),
    }
