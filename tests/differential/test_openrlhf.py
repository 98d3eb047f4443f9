"""Our losses against OpenRLHF's own. Its package imports FlashAttention, which needs a GPU; the loss itself does
not, so only the modules that hold it are imported."""

import importlib.util
import sys
from types import ModuleType

import pytest
import torch

from mel_ray.policy.loss import kl_estimate
from mel_ray.records.step import LossSettings
from tests.differential.batches import SEEDS, assert_same, make_batch, ours


def _models_without_their_init() -> None:
    (folder,) = importlib.util.find_spec("openrlhf").submodule_search_locations
    package = ModuleType("openrlhf.models")
    package.__path__ = [f"{folder}/models"]
    sys.modules["openrlhf.models"] = package


_models_without_their_init()
from openrlhf.models.loss import PolicyLoss  # noqa: E402
from openrlhf.models.utils import compute_approx_kl  # noqa: E402


def openrlhf_loss(batch, **options):
    loss = PolicyLoss(**options)
    advantages = batch.advantages[:, None].expand_as(batch.mask)
    return loss(batch.logprobs, batch.old, advantages, batch.mask, batch.sampled)[0]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("is_token_level", "aggregation"), [(True, "token_mean"), (False, "seq_mean_token_mean")])
def test_the_loss_and_its_aggregations(seed, is_token_level, aggregation):
    batch = make_batch(seed)
    theirs = openrlhf_loss(batch, token_level_loss=is_token_level)
    assert_same(batch, theirs, *ours(batch, LossSettings(log_ratio_clamp=20.0), aggregation))


@pytest.mark.parametrize("seed", SEEDS)
def test_dual_clip(seed):
    batch = make_batch(seed)
    assert_same(batch, openrlhf_loss(batch, dual_clip=1.5), *ours(batch, LossSettings(dual_clip=1.5), "token_mean"))


@pytest.mark.parametrize("seed", SEEDS)
def test_gspo(seed):
    batch = make_batch(seed)
    theirs = openrlhf_loss(batch, policy_loss_type="gspo")
    assert_same(batch, theirs, *ours(batch, LossSettings("sequence_clipped"), "seq_mean_token_mean"))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("theirs", "mode"), [("mask", "mask"), ("clip", "truncate")])
@pytest.mark.parametrize("floor", [None, 0.7])
def test_importance_of_tokens(seed, theirs, mode, floor):
    batch = make_batch(seed)
    found = openrlhf_loss(batch, is_correction_level="token", is_correction_mode=theirs,
                          is_correction_threshold=[floor or 0.0, 1.2])  # fmt: skip
    loss = LossSettings(importance_cap=1.2, importance_floor=floor, importance_mode=mode)
    assert_same(batch, found, *ours(batch, loss, "token_mean"))


@pytest.mark.parametrize("seed", SEEDS)
def test_gspo_with_correction_takes_the_ratio_to_the_sampled_logprobs(seed):
    batch = make_batch(seed)
    theirs = openrlhf_loss(batch, policy_loss_type="gspo", is_correction_level="token")
    loss = LossSettings("sequence_clipped", denominator="sampled")
    assert_same(batch, theirs, *ours(batch, loss, "seq_mean_token_mean"))


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_estimators(estimator):
    batch = make_batch(0)
    # OpenRLHF computes its KL in float32
    expected = compute_approx_kl(batch.logprobs, batch.reference, kl_estimator=estimator)
    found = kl_estimate(batch.logprobs, batch.reference, estimator).float()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
