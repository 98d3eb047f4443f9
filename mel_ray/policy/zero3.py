"""The policy on one DeepSpeed ZeRO-3 rank: joint-loss steps, weights, checkpoints, export.

Collective: every public method that touches parameters must be called on all ranks at the same time.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils import safe_get_local_grad, safe_set_local_grad
from torch import Tensor, nn

from mel_ray.policy.optimizer_memory import SecondState, SlowWeights
from mel_ray.policy.model import Microbatch, PolicyModel, collate
from mel_ray.policy.settings import ParameterMeta, PolicySettings, Rendezvous
from mel_ray.policy.statistics import StepStatistics, with_references
from mel_ray.weights.weight_sender import BUCKET_BYTES, buckets
from mel_ray.records.update import KlEstimator, KlFacts, LossSettings, OptimizerStep, RankSums
from mel_ray.policy.kl import kl_estimate
from mel_ray.policy.loss import joint_loss


def join(rendezvous: Rendezvous, device: str) -> None:
    """Set the variables DeepSpeed reads and join the ranks' process group."""
    os.environ.update(
        RANK=str(rendezvous.rank),
        LOCAL_RANK=str(rendezvous.local_rank),
        WORLD_SIZE=str(rendezvous.world),
        LOCAL_WORLD_SIZE="1",
        MASTER_ADDR=rendezvous.address,
        MASTER_PORT=str(rendezvous.port),
    )
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.ERROR)
    if device == "cpu":
        # The shared-memory collectives would be compiled for a minute; gloo serves as well.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "gloo" if device == "cpu" else "nccl"
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def deepspeed_config(settings: PolicySettings) -> dict[str, Any]:
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.max_grad_norm,
        "zero_optimization": {
            "stage": 3,
            "contiguous_gradients": True,
            "overlap_comm": settings.device == "cuda",
        },
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
    if settings.dtype == "bfloat16":
        config["bf16"] = {"enabled": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}  # dozens of microbatches add up
    return config


class Zero3Policy:
    """One rank of the policy. Gradients of all ranks and microbatches add up to those of one global sum."""

    def __init__(self, settings: PolicySettings, rendezvous: Rendezvous) -> None:
        import deepspeed
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(settings.threads)
        join(rendezvous, settings.device)
        self._settings, self._rank, self._world = settings, rendezvous.rank, rendezvous.world
        self._device = torch.device("cpu" if settings.device == "cpu" else f"cuda:{rendezvous.local_rank}")
        dtype = getattr(torch, settings.dtype)
        causal_lm = AutoModelForCausalLM.from_pretrained(
            settings.model, dtype=dtype, attn_implementation=settings.attention
        )
        if settings.gradient_checkpointing:
            causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
        model = PolicyModel(causal_lm, settings.head_pieces, settings.temperature)
        model.train()
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=0.0, betas=settings.betas, weight_decay=settings.weight_decay
        )
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=deepspeed_config(settings))
        self._causal_lm = causal_lm
        self._reference = self._load_reference() if settings.has_reference else None
        self._second_state = SecondState(self._engine.optimizer)
        self._compared: list[Tensor] = []
        self._slow_weights = SlowWeights(self._engine.optimizer) if settings.has_slow_weights else None

    def _load_reference(self) -> Any:
        """The initial policy, sharded over the ranks like the trained one, without an optimizer."""
        import deepspeed
        from transformers import AutoModelForCausalLM

        settings = self._settings
        causal_lm = AutoModelForCausalLM.from_pretrained(
            settings.model, dtype=getattr(torch, settings.dtype), attn_implementation=settings.attention
        )
        model = PolicyModel(causal_lm.requires_grad_(False), settings.head_pieces, settings.temperature).eval()
        engine, *_ = deepspeed.initialize(model=model, config=deepspeed_config(settings))
        return engine

    # -- training

    def logprobs(self, microbatches: Sequence[Microbatch], of_reference: bool = False) -> list[Tensor]:
        """Logprobs of all completions under the current weights or the initial ones, one [completion tokens] per
        microbatch."""
        engine, result = self._reference if of_reference else self._engine, []
        if engine is None:
            raise RuntimeError("this policy keeps no reference")
        with torch.no_grad():
            for microbatch in microbatches:
                tensors = collate(microbatch, self._device)
                result.append(engine(tensors.ids, tensors.predicts)[0])
        return result

    def divergence(self, microbatches: Sequence[Microbatch], estimator: KlEstimator) -> list[list[KlFacts]]:
        """KL of every sequence to the initial policy, [microbatch][row], under the current weights."""
        current, reference, facts = self.logprobs(microbatches), self.logprobs(microbatches, True), []
        for microbatch, now, initial in zip(microbatches, current, reference, strict=True):
            sizes = [len(sequence.pg_weight) for sequence in microbatch]
            to_go = [one.flip(0).cumsum(0) for one in kl_estimate(now, initial, estimator).split(sizes)]
            facts.append([KlFacts(float(one[-1]), float(one.sum()), float((one**2).sum())) for one in to_go])
        return facts

    def step(
        self,
        microbatches: Sequence[Microbatch],
        plan: OptimizerStep,
        lr: float,
        loss: LossSettings,
        old_logprobs: Sequence[Tensor] | None = None,
        reference_logprobs: Sequence[Tensor] | None = None,
    ) -> RankSums:
        """One optimizer step on the global sum of all ranks' microbatches (MEL Eq. 10).

        Of `plan` only how to combine the gradients matters here. Among the sums are the global `grad_norm`,
        before clipping, and with `plan.experience_from` the norms of both terms' gradients and their cosine.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr * plan.lr_factor
        statistics, first, last = StepStatistics(), None, len(microbatches) - 1
        for k, microbatch in enumerate(microbatches):
            if k == plan.experience_from:
                first = self._gradients()
            self._engine.set_gradient_accumulation_boundary(k == last)
            tensors = collate(microbatch, self._device)
            logprobs, entropy = self._engine(tensors.ids, tensors.predicts, bool(loss.entropy_coefficient))
            tokens = with_references(
                tensors,
                old_logprobs[k] if old_logprobs else None,
                reference_logprobs[k] if reference_logprobs else None,
                logprobs.detach(),
                loss,
            )
            value, parts = joint_loss(logprobs, entropy, tokens, loss)
            if not torch.isfinite(value):
                raise FloatingPointError(f"the loss of microbatch {k} is {value.item()}")
            statistics.add(tokens, logprobs.detach(), entropy.detach(), parts, microbatch, tensors.ids.numel())
            # DeepSpeed averages gradients over ranks; the weights are already global, so undo that.
            self._engine.backward(value * self._world)
            if k < last:
                self._engine.step()
        if first is not None:
            statistics.sums |= self._combine(first, plan.balance)
        if plan.is_compared and plan.optimizer == "policy":
            self._compared = self._gradients()
        elif plan.is_compared:
            statistics.sums |= self._compare(self._compared, self._gradients())
            self._compared = []
        with self._second_state.in_use() if plan.optimizer == "experience" else nullcontext():
            self._engine.step()
        norm = "experience_norm" if plan.optimizer == "experience" else "grad_norm"
        statistics.sums[norm] = float(self._engine.get_global_grad_norm() or 0.0)
        return statistics.result()

    def _gradients(self) -> list[Tensor]:
        """This rank's part of the gradients accumulated so far."""
        return [safe_get_local_grad(p).clone() for p in self._causal_lm.parameters() if p.requires_grad]

    def _combine(self, policy: list[Tensor], balance: float | None) -> dict[str, float]:
        """Compare the policy term's gradients with what came after them, and scale the latter if asked to."""
        experience = [both - own for both, own in zip(self._gradients(), policy, strict=True)]
        measured = self._compare(policy, experience)
        if balance is not None and measured["experience_norm"]:
            scale = balance * measured["policy_norm"] / measured["experience_norm"]
            trained = [p for p in self._causal_lm.parameters() if p.requires_grad]
            for parameter, own, other in zip(trained, policy, experience, strict=True):
                safe_set_local_grad(parameter, own + scale * other)
        return measured

    @staticmethod
    def _compare(policy: list[Tensor], experience: list[Tensor]) -> dict[str, float]:
        """Global norms of two gradients of which this rank holds parts, and their cosine (0 where one is zero)."""
        dots = torch.stack(
            [
                sum((a.double() * b.double()).sum() for a, b in zip(x, y, strict=True))
                for x, y in ((policy, policy), (experience, experience), (policy, experience))
            ]
        )
        torch.distributed.all_reduce(dots)
        policy_norm, experience_norm = dots[0].sqrt().item(), dots[1].sqrt().item()
        product = policy_norm * experience_norm
        cosine = dots[2].item() / product if product else 0.0
        return {"policy_norm": policy_norm, "experience_norm": experience_norm, "gradient_cosine": cosine}

    def interpolate(self, rate: float) -> None:
        """Reptile: go back part of the way to the weights of the last interpolation."""
        if self._slow_weights is None:
            raise RuntimeError("this policy keeps no slow weights")
        self._slow_weights.interpolate(rate)

    # -- weights

    def _named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return list(self._causal_lm.named_parameters())

    def weight_metas(self) -> list[ParameterMeta]:
        """Names, dtypes and full shapes, in the order in which `weights` yields them."""
        return [
            ParameterMeta(name, str(p.dtype).removeprefix("torch."), tuple(getattr(p, "ds_shape", p.shape)))
            for name, p in self._named_parameters()
        ]

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Full parameters, gathered from all ranks a bucket at a time; valid until the next one is asked for."""
        import deepspeed

        parameters = dict(self._named_parameters())
        for bucket in buckets(self.weight_metas(), BUCKET_BYTES):
            members = [parameters[meta.name] for meta in bucket]
            with deepspeed.zero.GatheredParameters(members, modifier_rank=None):
                gathered = [(meta.name, p.detach().clone()) for meta, p in zip(bucket, members, strict=True)]
            yield from gathered

    def export(self, folder: Path, tokenizer_folder: Path) -> None:
        """Write a Hugging Face folder (rank 0): safetensors, configuration, tokenizer."""
        import shutil

        state = {name: tensor.cpu() for name, tensor in self.weights() if self._rank == 0}
        if self._rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            self._causal_lm.save_pretrained(folder, state_dict=state)
            for pattern in (
                "tokenizer*",
                "*.jinja",
                "vocab*",
                "merges*",
                "special_tokens_map.json",
                "added_tokens.json",
            ):
                for file in Path(tokenizer_folder).glob(pattern):
                    shutil.copyfile(file, folder / file.name)

    def verify_export(self, folder: Path) -> float:
        """Largest difference of logprobs between the trained policy and the exported folder, reloaded (rank 0).

        Collective; on a fixed sequence. Other ranks get 0.
        """
        from transformers import AutoModelForCausalLM

        vocabulary = self._causal_lm.config.vocab_size
        ids = (torch.arange(1, 65, device=self._device) * 7919 % vocabulary)[None]
        predicts = torch.ones((1, ids.shape[1] - 1), dtype=torch.bool, device=self._device)
        with torch.no_grad():
            trained, _ = self._engine(ids, predicts)
            if self._rank:
                return 0.0
            dtype = getattr(torch, self._settings.dtype)
            exported = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(self._device)
            model = PolicyModel(exported, self._settings.head_pieces, self._settings.temperature)
            reloaded, _ = model(ids, predicts)
        return float((trained - reloaded).abs().max())

    # -- checkpoints

    def save(self, folder: Path) -> None:
        """Write this rank's shards of parameters and optimizer below `folder`."""
        self._engine.save_checkpoint(str(folder), tag="policy", save_latest=False)
        self._second_state.save(folder / f"experience_optimizer-{self._rank}.pt")
        if self._slow_weights is not None:
            self._slow_weights.save(folder / f"slow_weights-{self._rank}.pt")

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote.

        Raises:
            RuntimeError: the checkpoint is missing or was written by another number of ranks.
        """
        path, _ = self._engine.load_checkpoint(str(folder), tag="policy")
        if path is None:
            raise RuntimeError(f"no policy checkpoint in {folder}")
        self._second_state.load(folder / f"experience_optimizer-{self._rank}.pt")
        if self._slow_weights is not None:
            self._slow_weights.load(folder / f"slow_weights-{self._rank}.pt")
