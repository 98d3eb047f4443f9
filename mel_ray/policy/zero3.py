"""The policy on one DeepSpeed ZeRO-3 rank: joint-loss steps, weights, checkpoints, export.

Collective: every public method that touches parameters must be called on all ranks at the same time.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils import safe_get_local_grad, safe_set_local_grad
from torch import Tensor, nn

from mel_ray.policy.hooks.balanced import Balanced
from mel_ray.policy.hooks.gradient_split import GradientSplit
from mel_ray.policy.hooks.hook import Hook
from mel_ray.policy.hooks.reptile import Reptile
from mel_ray.policy.hooks.separate import Separate
from mel_ray.policy.loss import joint_loss
from mel_ray.policy.model import Microbatch, PolicyModel, collate
from mel_ray.policy.policy_settings import PolicySettings, Rendezvous
from mel_ray.policy.recorder import StepRecorder
from mel_ray.policy.statistics import Same, StepMeasures
from mel_ray.records.reports import DeviceFacts
from mel_ray.records.step import OptimizerStep, TrainSettings
from mel_ray.records.trajectory import Floats
from mel_ray.weights.parameters import ParameterMeta, buckets


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
            model.parameters(),
            lr=0.0,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=settings.device == "cuda",
        )
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=deepspeed_config(settings))
        self._causal_lm = causal_lm
        self._reference = self._load_reference() if settings.has_reference else None
        self._lasting_hooks: list[Hook] = [Separate(self)]
        if settings.has_slow_weights:
            self._lasting_hooks.append(Reptile(self))

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

    def score(self, microbatches: Sequence[Microbatch], of_reference: bool = False) -> list[list[Floats]]:
        """Logprobs of the trained tokens under the current weights or the initial ones, without gradient:
        [microbatch][row], arrays [trained tokens]."""
        engine = self._reference if of_reference else self._engine
        if engine is None:
            raise RuntimeError("this policy keeps no reference")
        result = []
        with torch.no_grad():
            for microbatch in microbatches:
                tokens = collate(microbatch, self._device)
                logprobs, _ = engine(tokens.ids, tokens.predicts)
                sizes = [len(sequence.pg_weight) for sequence in microbatch]
                result.append([row.float().cpu().numpy() for row in logprobs.split(sizes)])
        return result

    def update(
        self, steps: Sequence[tuple[OptimizerStep, Sequence[Microbatch]]], settings: TrainSettings
    ) -> list[StepMeasures]:
        """All optimizer steps of a batch, each with this rank's microbatches, `settings.epochs` times over."""
        if settings.slow_rate is not None and not self._settings.has_slow_weights:
            raise RuntimeError("this policy keeps no slow weights")
        hooks = [GradientSplit(), Balanced(), *self._lasting_hooks]
        result: list[StepMeasures] = []
        for _ in range(settings.epochs):
            for step, microbatches in steps:
                recorder = StepRecorder(settings, is_first=not result)
                result.append(self._step(step, microbatches, settings, hooks, recorder))
        for hook in hooks:
            hook.after_update(settings, self)
        return result

    def _step(
        self,
        step: OptimizerStep,
        microbatches: Sequence[Microbatch],
        settings: TrainSettings,
        hooks: Sequence[Hook],
        recorder: StepRecorder,
    ) -> StepMeasures:
        """One optimizer step on the global sum of all ranks' microbatches (MEL Eq. 10).

        Among the measures is the global gradient norm before clipping.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = settings.lr * step.lr_factor
        loss, last = settings.loss, len(microbatches) - 1
        for k, microbatch in enumerate(microbatches):
            for hook in hooks:
                hook.before_microbatch(step, k, self)
            # ZeRO-3 adds a microbatch's gradients to its partitions in `backward`. Only at the boundary does its `step`
            # apply them; before it, `step` just counts the microbatch. So the boundary is set by hand, per microbatch.
            self._engine.set_gradient_accumulation_boundary(k == last)
            tokens = collate(microbatch, self._device)
            logprobs, entropy = self._engine(tokens.ids, tokens.predicts, bool(loss.entropy_coefficient))
            value, parts = joint_loss(logprobs, entropy, tokens, loss)
            if not torch.isfinite(value):
                raise FloatingPointError(f"the loss of microbatch {k} is {value.item()}")
            recorder.add(tokens, logprobs.detach(), entropy.detach(), parts, microbatch)
            # DeepSpeed averages gradients over ranks; the weights are already global, so undo that.
            self._engine.backward(value * self._world)
            if k < last:
                self._engine.step()
        # All gradients are there and none is applied yet: hooks may measure and change them.
        for hook in hooks:
            recorder.measures |= hook.before_optimizer(step, self)
        with ExitStack() as states:
            for hook in hooks:
                states.enter_context(hook.optimizer_state(step))
            self._engine.step()
        norm = "experience_norm" if step.optimizer == "experience" else "grad_norm"
        recorder.measures[norm] = Same(float(self._engine.get_global_grad_norm() or 0.0))
        return recorder.result()

    # -- what hooks may see

    @property
    def number(self) -> int:
        return self._rank

    @property
    def zero(self) -> Any:
        return self._engine.optimizer

    @property
    def facts(self) -> DeviceFacts:
        device = "cpu" if self._device.type == "cpu" else torch.cuda.get_device_name(self._device)
        return DeviceFacts(device, self._settings.dtype, sum(meta.numel for meta in self.weight_metas()))

    def _trained_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self._causal_lm.parameters() if parameter.requires_grad]

    def gradients(self) -> list[Tensor]:
        """Copies of this rank's part of the gradients accumulated so far, one per parameter."""
        return [safe_get_local_grad(parameter).clone() for parameter in self._trained_parameters()]

    def set_gradients(self, gradients: Sequence[Tensor]) -> None:
        for parameter, gradient in zip(self._trained_parameters(), gradients, strict=True):
            safe_set_local_grad(parameter, gradient)

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
        """Full parameters, without a copy where this rank holds all of them, else gathered from all ranks a bucket at a
        time; valid until the next one is asked for."""
        import deepspeed

        parameters = dict(self._named_parameters())
        for bucket in buckets(self.weight_metas()):
            members = [parameters[meta.name] for meta in bucket]
            if self._world == 1:
                whole = (p.ds_tensor.detach()[: meta.numel].view(meta.shape) for meta, p in zip(bucket, members))
                yield from zip((meta.name for meta in bucket), whole)
                continue
            with deepspeed.zero.GatheredParameters(members, modifier_rank=None):
                yield from ((meta.name, p.detach()) for meta, p in zip(bucket, members))

    def export(self, folder: Path, tokenizer_folder: Path) -> None:
        """Write a Hugging Face folder (rank 0): safetensors, configuration, tokenizer."""
        import shutil

        state = {name: tensor.to("cpu", copy=True) for name, tensor in self.weights() if self._rank == 0}
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
                "chat_template.json",
                "additional_chat_templates/*.jinja",
            ):
                for file in Path(tokenizer_folder).glob(pattern):
                    copy = folder / file.relative_to(tokenizer_folder)
                    copy.parent.mkdir(exist_ok=True)
                    shutil.copyfile(file, copy)

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
        for hook in self._lasting_hooks:
            hook.save(folder, self)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote.

        Raises:
            RuntimeError: the checkpoint is missing or was written by another number of ranks.
        """
        path, _ = self._engine.load_checkpoint(str(folder), tag="policy")
        if path is None:
            raise RuntimeError(f"no policy checkpoint in {folder}")
        for hook in self._lasting_hooks:
            hook.load(folder, self)
