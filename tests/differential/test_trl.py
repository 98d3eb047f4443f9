"""Our loss against TRL's own `GRPOTrainer._compute_loss`, given the same logprobs."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from trl import GRPOTrainer

from mel_ray.records.step import LossSettings
from tests.differential.batches import ROWS, SEEDS, WIDTH, Batch, assert_same, make_batch, ours

LIMIT = 16  # max_completion_length


def trl_loss(batch: Batch, loss_type: str, **options) -> torch.Tensor:
    """TRL's loss with its model call answered from the batch."""
    settings = {"epsilon_low": 0.2, "epsilon_high": 0.2, "beta": 0.0, "importance_sampling_level": "token",
                "delta": None, "bias_corrected_kl": False, "entropy_coef": 0.0, "corrects_engine": False}  # fmt: skip
    settings |= options
    args = SimpleNamespace(delta=settings["delta"], use_bias_correction_kl=settings["bias_corrected_kl"],
                           steps_per_generation=1)  # fmt: skip
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        args=args, loss_type=loss_type, beta=settings["beta"], epsilon_low=settings["epsilon_low"],
        epsilon_high=settings["epsilon_high"], importance_sampling_level=settings["importance_sampling_level"],
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, aux_loss_enabled=False,
        use_vllm=settings["corrects_engine"], vllm_importance_sampling_correction=settings["corrects_engine"],
        current_gradient_accumulation_steps=1, max_completion_length=LIMIT,
        _entropy_bonus_enabled=settings["entropy_coef"] != 0.0, use_adaptive_entropy=False,
        entropy_coef=settings["entropy_coef"], _metrics=defaultdict(lambda: defaultdict(list)),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, gather_for_metrics=lambda x: x,
                                    reduce=lambda x, reduction: x, sync_gradients=True),
        _get_per_token_logps_and_entropies=lambda *_, **__: (batch.logprobs, batch.entropy, None),
    )  # fmt: skip
    ids = torch.ones(ROWS, 1, dtype=torch.long)
    inputs = {
        "prompt_ids": ids, "prompt_mask": ids, "completion_ids": torch.ones(ROWS, WIDTH, dtype=torch.long),
        "completion_mask": batch.mask, "advantages": batch.advantages, "old_per_token_logps": batch.old,
        "ref_per_token_logps": batch.reference, "num_items_in_batch": batch.mask.sum(),
        "importance_sampling_ratio": options.get("ratio"),
    }  # fmt: skip
    return GRPOTrainer._compute_loss(trainer, trainer.model, inputs)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("loss_type", "aggregation"),
    [
        ("grpo", "seq_mean_token_mean"),
        ("bnpo", "token_mean"),
        ("dapo", "token_mean"),
        ("dr_grpo", "dr_grpo"),
    ],
)
def test_loss_types(seed, loss_type, aggregation):
    batch = make_batch(seed)
    assert_same(batch, trl_loss(batch, loss_type), *ours(batch, LossSettings(), aggregation, LIMIT))


@pytest.mark.parametrize("seed", SEEDS)
def test_lopsided_clip_range(seed):
    batch = make_batch(seed)
    loss = LossSettings(clip_low=0.1, clip_high=0.28)
    assert_same(batch, trl_loss(batch, "dapo", epsilon_low=0.1, epsilon_high=0.28), *ours(batch, loss, "token_mean"))


@pytest.mark.parametrize("seed", SEEDS)
def test_delta_is_dual_clip(seed):
    batch = make_batch(seed)
    theirs = trl_loss(batch, "grpo", delta=1.5)
    assert_same(batch, theirs, *ours(batch, LossSettings(dual_clip=1.5), "seq_mean_token_mean"))


@pytest.mark.parametrize("seed", SEEDS)
def test_sequence_level_importance_is_gspo(seed):
    batch = make_batch(seed)
    theirs = trl_loss(batch, "grpo", importance_sampling_level="sequence")
    assert_same(batch, theirs, *ours(batch, LossSettings("sequence_clipped"), "seq_mean_token_mean"))


@pytest.mark.parametrize("seed", SEEDS)
def test_cispo_whose_epsilon_high_is_the_bound_itself(seed):
    batch = make_batch(seed)
    theirs = trl_loss(batch, "cispo", epsilon_high=1.5)
    assert_same(batch, theirs, *ours(batch, LossSettings("cispo", clip_low=1.0, clip_high=0.5), "token_mean"))


@pytest.mark.parametrize("seed", SEEDS)
def test_kl_in_the_loss(seed):
    batch = make_batch(seed)
    loss = LossSettings(kl_coefficient=0.05, kl_estimator="k3", needs_reference=True)
    assert_same(batch, trl_loss(batch, "grpo", beta=0.05), *ours(batch, loss, "seq_mean_token_mean"))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_kl_of_trl_by_default_is_weighted_by_the_ratio_and_so_differs_from_ours(seed):
    batch = make_batch(seed)
    theirs = trl_loss(batch, "grpo", beta=0.05, bias_corrected_kl=True)
    with pytest.raises(AssertionError):
        loss = LossSettings(kl_coefficient=0.05, kl_estimator="k3", needs_reference=True)
        assert_same(batch, theirs, *ours(batch, loss, "seq_mean_token_mean"))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("mode", ["truncate", "mask"])
@pytest.mark.parametrize("floor", [None, 0.7])
def test_importance_correction_for_the_engine(seed, level, mode, floor):
    """TRL computes these ratios in the middle of generating; `vllm_importance_sampling_clip_min` is our floor."""
    batch = make_batch(seed)
    difference = (batch.old - batch.sampled) * batch.mask
    ratio = (difference.sum(-1, keepdim=True) if level == "sequence" else difference).exp()
    is_outside = (ratio > 1.2) | (ratio < (floor or 0.0))
    ratio = ratio.clamp(floor, 1.2) if mode == "truncate" else ratio.masked_fill(is_outside, 0.0)
    theirs = trl_loss(batch, "grpo", corrects_engine=True, ratio=ratio)
    loss = LossSettings(importance_cap=1.2, importance_floor=floor, importance_level=level, importance_mode=mode)
    assert_same(batch, theirs, *ours(batch, loss, "seq_mean_token_mean"))
