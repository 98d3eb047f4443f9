"""Our estimators and losses against verl's own `core_algos`."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from verl.trainer.config import AlgoConfig
from verl.trainer.config.algorithm import RolloutCorrectionConfig
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_weights
from verl.workers.config import ActorConfig, PolicyLossConfig

from mel_ray.policy.algorithms.batch_whitened import batch_whitened
from mel_ray.policy.algorithms.group_centred import group_centred
from mel_ray.policy.algorithms.group_standardised import group_standardised
from mel_ray.policy.algorithms.leave_one_out import leave_one_out
from mel_ray.policy.loss import kl_estimate
from mel_ray.policy.rows import kl_penalty_to_go
from mel_ray.records.step import LossSettings
from tests.differential.batches import SEEDS, WIDTH, assert_same, make_batch, ours

MODES = {
    "token-mean": "token_mean",
    "seq-mean-token-mean": "seq_mean_token_mean",
    "seq-mean-token-sum": "seq_mean_token_sum",
    "seq-mean-token-sum-norm": "dr_grpo",
}
VERL = {"dual_clip": 3.0, "log_ratio_clamp": 20.0}


def verl_loss(batch, name="vanilla", mode="token-mean", weights=None, **clip):
    actor = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, **clip)
    advantages = batch.advantages[:, None].expand_as(batch.mask)
    function = core_algos.get_policy_loss_fn(name)
    loss, _ = function(batch.old, batch.logprobs, advantages, batch.mask, mode, actor, weights)
    return loss


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mode", MODES)
def test_the_loss_and_its_aggregations(seed, mode):
    batch = make_batch(seed)
    assert_same(batch, verl_loss(batch, mode=mode), *ours(batch, LossSettings(**VERL), MODES[mode], WIDTH))


@pytest.mark.parametrize("seed", SEEDS)
def test_dual_clip_and_a_lopsided_range(seed):
    batch = make_batch(seed)
    theirs = verl_loss(batch, clip_ratio_low=0.1, clip_ratio_high=0.28, clip_ratio_c=1.5)
    loss = LossSettings(clip_low=0.1, clip_high=0.28, dual_clip=1.5, log_ratio_clamp=20.0)
    assert_same(batch, theirs, *ours(batch, loss, "token_mean"))


@pytest.mark.parametrize("seed", SEEDS)
def test_gspo(seed):
    batch = make_batch(seed)
    theirs = verl_loss(batch, "gspo", "seq-mean-token-mean", clip_ratio_low=0.2, clip_ratio_high=0.2)
    assert_same(batch, theirs, *ours(batch, LossSettings("sequence_clipped"), "seq_mean_token_mean"))


@pytest.mark.parametrize("seed", SEEDS)
def test_cispo(seed):
    batch = make_batch(seed)
    theirs = verl_loss(batch, "cispo", clip_ratio_low=0.3, clip_ratio_high=0.5)
    assert_same(batch, theirs, *ours(batch, LossSettings("cispo", clip_low=0.3, clip_high=0.5), "token_mean"))


ICEPOP = {"importance_cap": 1.5, "importance_floor": 0.6, "importance_mode": "mask"}
CORRECTIONS = {"1.2": {"importance_cap": 1.2}, "0.6_1.5": ICEPOP}  # the first: truncated importance sampling


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("threshold", CORRECTIONS)
def test_the_decoupled_objective_with_verls_rollout_correction(seed, threshold, level):
    batch = make_batch(seed)
    weights, _ = compute_rollout_correction_weights(batch.old - batch.sampled, batch.mask, level, threshold)
    loss = LossSettings(**CORRECTIONS[threshold], importance_level=level, **VERL)
    assert_same(batch, verl_loss(batch, weights=weights), *ours(batch, loss, "token_mean"))


def verl_bypass_loss(batch, **options):
    """verl's loss without a scoring pass: the sampled logprobs stand in for the old ones."""
    correction = RolloutCorrectionConfig(bypass_mode=True, **options)
    policy_loss = PolicyLossConfig(loss_mode="bypass_mode", rollout_correction=correction)
    bypassed = replace(batch, old=batch.sampled)
    return verl_loss(bypassed, "bypass_mode", policy_loss=policy_loss)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_ratio_to_the_sampled_logprobs_is_verls_bypass_mode(seed):
    batch = make_batch(seed)
    theirs = verl_bypass_loss(batch, loss_type="ppo_clip", rollout_is="token")
    assert_same(batch, theirs, *ours(batch, LossSettings(denominator="sampled", **VERL), "token_mean"))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("threshold", CORRECTIONS)
def test_the_weighted_score_function_is_verls_bypass_mode_with_reinforce(seed, threshold, level):
    batch = make_batch(seed, is_on_policy=True)  # of the first optimizer step: pi is the policy before the update
    theirs = verl_bypass_loss(batch, loss_type="reinforce", rollout_is=level, rollout_is_threshold=threshold)
    loss = LossSettings("logprob", **CORRECTIONS[threshold], importance_level=level)
    assert_same(batch, theirs, *ours(batch, loss, "token_mean"))


@pytest.mark.parametrize(("theirs", "estimator"), [("kl", "k1"), ("mse", "k2"), ("low_var_kl", "k3")])
def test_kl_estimators(theirs, estimator):
    batch = make_batch(0)
    expected = core_algos.kl_penalty_forward(batch.logprobs, batch.reference, theirs)
    torch.testing.assert_close(kl_estimate(batch.logprobs, batch.reference, estimator), expected, rtol=1e-9, atol=1e-12)


def scores(rewards: list[float], lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards at the last token, and the mask."""
    mask = (torch.arange(WIDTH)[None] < torch.tensor(lengths)[:, None]).double()
    at_end = torch.zeros_like(mask)
    at_end[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = torch.tensor(rewards, dtype=torch.float64)
    return at_end, mask


REWARDS, LENGTHS = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.5, 1.0], [2, 9, 4, 1, 3, 3, 8, 5]
INDEX = np.array(["a"] * 4 + ["b"] * 4)


def of_groups(estimator) -> list[float]:
    return [*estimator(REWARDS[:4]).tolist(), *estimator(REWARDS[4:]).tolist()]


@pytest.mark.parametrize(
    ("theirs", "options", "estimator"),
    [
        (core_algos.compute_grpo_outcome_advantage, {}, group_standardised),
        (core_algos.compute_grpo_outcome_advantage, {"norm_adv_by_std_in_grpo": False}, group_centred),
        (core_algos.compute_rloo_outcome_advantage, {}, leave_one_out),
    ],
)
def test_group_estimators(theirs, options, estimator):
    at_end, mask = scores(REWARDS, LENGTHS)
    found, _ = theirs(at_end, mask, INDEX, **options)
    assert found[:, 0].tolist() == pytest.approx(of_groups(estimator), abs=1e-6)


def test_whitened_estimators_but_for_bessels_correction():
    """verl divides the variance over tokens by n - 1, OpenRLHF and we by n."""
    at_end, mask = scores(REWARDS, LENGTHS)
    bessel = (sum(LENGTHS) / (sum(LENGTHS) - 1)) ** 0.5
    plain, _ = core_algos.compute_reinforce_plus_plus_outcome_advantage(at_end, mask, AlgoConfig(gamma=1.0))
    assert (plain[:, 0] * bessel).tolist() == pytest.approx(batch_whitened(REWARDS, LENGTHS).tolist(), abs=1e-5)
    centred = of_groups(group_centred)
    with_baseline, _ = core_algos.compute_reinforce_plus_plus_baseline_outcome_advantage(at_end, mask, INDEX)
    assert (with_baseline[:, 0] * bessel).tolist() == pytest.approx(batch_whitened(centred, LENGTHS).tolist(), abs=1e-5)


def test_returns_with_kl_in_the_reward():
    batch, beta = make_batch(1), 0.1
    rewards = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    at_end, mask = scores(rewards, batch.lengths)
    shaped = core_algos.compute_rewards(at_end, batch.old, batch.reference, beta) * mask
    _, returns = core_algos.compute_reinforce_plus_plus_outcome_advantage(shaped, mask, AlgoConfig(gamma=1.0))
    for row, length in enumerate(batch.lengths):
        now, reference = batch.old[row, :length].numpy(), batch.reference[row, :length].numpy()
        # our penalty is float32
        expected = returns[row, :length].numpy()
        assert rewards[row] - kl_penalty_to_go(now, reference, "k1", beta) == pytest.approx(expected, abs=1e-6)
