"""The policy on one DeepSpeed ZeRO-3 rank: joint-loss steps, weights, checkpoints, export.

Collective: every public method that touches parameters must be called on all ranks at the same time.
"""

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from deepspeed.utils import safe_get_local_grad, safe_set_local_grad
from torch import Tensor, nn

from mel_ray.policy.adapters import Adapters
from mel_ray.policy.hooks.balanced import Balanced
from mel_ray.policy.hooks.gradient_split import GradientSplit
from mel_ray.policy.hooks.hook import Hook
from mel_ray.policy.hooks.outliers import Outliers
from mel_ray.policy.hooks.reptile import Reptile
from mel_ray.policy.hooks.separate import Separate
from mel_ray.policy.loading import deepspeed_config, join, load_causal_lm
from mel_ray.policy.loss import TokenBatch, joint_loss
from mel_ray.policy.model import Microbatch, PolicyModel, collate
from mel_ray.policy.policy_settings import PolicySettings, Rendezvous
from mel_ray.policy.recorder import StepRecorder
from mel_ray.policy.sequence_parallel import ATTENTION as ULYSSES
from mel_ray.policy.sequence_parallel import SequenceParallel
from mel_ray.policy.snapshots import Files, Snapshot, Snapshots
from mel_ray.policy.statistics import Same, StepMeasures
from mel_ray.policy.universal import TAG, finish_loading, is_universal
from mel_ray.records.reports import DeviceFacts
from mel_ray.records.step import OptimizerStep, TrainSettings
from mel_ray.records.trajectory import Floats
from mel_ray.weights.parameters import ParameterMeta, buckets


def _shape(parameter: nn.Parameter) -> torch.Size:
    """The full shape, also of a parameter that is partitioned."""
    return getattr(parameter, "ds_shape", parameter.shape)


class Zero3Policy:
    """One rank of the policy. Gradients of all ranks and microbatches add up to those of one global sum."""

    def __init__(self, settings: PolicySettings, rendezvous: Rendezvous, listener: socket.socket | None = None) -> None:
        import deepspeed

        torch.set_num_threads(settings.threads)
        join(rendezvous, settings.device, listener)
        self._settings, self._rank, self._world = settings, rendezvous.rank, rendezvous.world
        self._device = torch.device("cpu" if settings.device == "cpu" else f"cuda:{rendezvous.local_rank}")
        self._parallel, attention = None, settings.attention
        if settings.sequence_parallel > 1:
            self._parallel = SequenceParallel(settings.sequence_parallel, settings.model, attention)
            attention = ULYSSES
        causal_lm = load_causal_lm(settings, attention)
        self._adapters = None if settings.lora is None else Adapters(causal_lm, settings.lora, settings.model)
        if settings.gradient_checkpointing:
            causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
        model = PolicyModel(causal_lm, settings.head_pieces, settings.temperature, self._parallel)
        model.train()
        optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=0.0,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=settings.device == "cuda",
        )
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=deepspeed_config(settings))
        self._engine.checkpoint_engine = self._snapshots = Snapshots()
        self._engine._copy_recovery_script = lambda folder: None  # a file; a rank that fails alone would hang the rest
        self._causal_lm = causal_lm
        needs_copy = settings.has_reference and self._adapters is None
        self._reference = self._load_reference(attention) if needs_copy else None
        self._lasting_hooks: list[Hook] = [Separate(self)]
        self._last_hook = Outliers(settings.skip_grad_norm)
        if settings.has_slow_weights:
            self._lasting_hooks.append(Reptile(self))

    def _load_reference(self, attention: str) -> Any:
        """The initial policy, sharded over the ranks like the trained one, without an optimizer."""
        import deepspeed

        settings = self._settings
        causal_lm = load_causal_lm(settings, attention).requires_grad_(False)
        model = PolicyModel(causal_lm, settings.head_pieces, settings.temperature, self._parallel).eval()
        engine, *_ = deepspeed.initialize(model=model, config=deepspeed_config(replace(settings, offload=False)))
        return engine

    # -- training

    def score(self, microbatches: Sequence[Microbatch], of_reference: bool = False) -> list[list[Floats]]:
        """Logprobs of the trained tokens under the current weights or the initial ones, without gradient:
        [microbatch][row], arrays [trained tokens]."""
        if of_reference and not self._settings.has_reference:
            raise RuntimeError("this policy keeps no reference")
        engine = self._reference if of_reference and self._reference is not None else self._engine
        # The initial policy is the model without its adapters, where it has some.
        without = self._adapters.disabled() if of_reference and self._adapters is not None else nullcontext()
        result = []
        with torch.no_grad(), without:
            for microbatch in microbatches:
                tokens = self._collate(microbatch)
                logprobs, _ = engine(tokens.ids, tokens.predicts, tokens.positions)
                sizes = [len(sequence.pg_weight) for sequence in microbatch]
                result.append([row.float().cpu().numpy() for row in logprobs.split(sizes)])
        return result

    def _collate(self, microbatch: Microbatch) -> TokenBatch:
        return collate(microbatch, self._device, self._settings.is_packed)

    def update(
        self, steps: Sequence[tuple[OptimizerStep, Sequence[Microbatch]]], settings: TrainSettings
    ) -> list[StepMeasures]:
        """All optimizer steps of a batch, each with this rank's microbatches, `settings.epochs` times over."""
        if settings.slow_rate is not None and not self._settings.has_slow_weights:
            raise RuntimeError("this policy keeps no slow weights")
        hooks = [GradientSplit(), Balanced(), *self._lasting_hooks, self._last_hook]
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

        Among the measures is the global gradient norm before clipping. DeepSpeed skips the step where that is not
        finite; then "skipped" is among them instead.
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
            tokens = self._collate(microbatch)
            has_entropy = bool(loss.entropy_coefficient)
            logprobs, entropy = self._engine(tokens.ids, tokens.predicts, tokens.positions, has_entropy)
            value, parts = joint_loss(logprobs, entropy, tokens, loss)
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
        if self.zero.overflow:
            recorder.measures["skipped"] = Same(1.0)
            return recorder.result()
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

    def gradient_norm(self) -> float:
        """Of all ranks' gradients accumulated so far (collective)."""
        squares = [safe_get_local_grad(parameter).double().square().sum() for parameter in self._trained_parameters()]
        total = torch.stack(squares).sum()
        torch.distributed.all_reduce(total)
        return float(total.sqrt())

    def set_gradients(self, gradients: Sequence[Tensor]) -> None:
        for parameter, gradient in zip(self._trained_parameters(), gradients, strict=True):
            safe_set_local_grad(parameter, gradient)

    # -- weights

    def _named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """All but the adapters' own: to everyone outside, they are part of the weights they change."""
        named = list(self._causal_lm.named_parameters())
        return named if self._adapters is None else [(n, p) for n, p in named if not Adapters.is_part(n)]

    def weight_metas(self) -> list[ParameterMeta]:
        """Names, dtypes and full shapes, in the order in which `weights` yields them."""
        return [
            ParameterMeta(Adapters.merged_name(name), str(p.dtype).removeprefix("torch."), tuple(_shape(p)))
            for name, p in self._named_parameters()
        ]

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Full parameters, adapters merged into them; without a copy where this rank holds all of them, else gathered
        from all ranks a bucket at a time; valid until the next one is asked for."""
        named = self._named_parameters()
        by_name = dict(zip((Adapters.merged_name(name) for name, _ in named), named, strict=True))
        for bucket in buckets(self.weight_metas()):
            members = [by_name[meta.name] for meta in bucket]
            parts = [None if self._adapters is None else self._adapters.parts(name) for name, _ in members]
            needed = [p for _, p in members] + [p for both in parts if both is not None for p in both]
            with self._whole(needed) as whole:
                adapters = iter(whole[len(members) :])
                for meta, (name, _), weight, both in zip(bucket, members, whole, parts):
                    if both is not None and self._adapters is not None:
                        weight = self._adapters.merged(name, weight, next(adapters), next(adapters))
                    yield meta.name, weight

    @contextmanager
    def _whole(self, parameters: Sequence[nn.Parameter]) -> Iterator[list[Tensor]]:
        """Full tensors (collective)."""
        import deepspeed

        if self._world == 1:
            yield [p.ds_tensor.detach()[: _shape(p).numel()].view(_shape(p)) for p in parameters]
            return
        with deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=None):
            yield [p.detach() for p in parameters]

    def _adapter_weights(self) -> dict[str, Tensor]:
        """The adapters' own tensors by their names in the model (collective)."""
        named = [(name, p) for name, p in self._causal_lm.named_parameters() if Adapters.is_part(name)]
        with self._whole([p for _, p in named]) as whole:
            return {name: tensor.to("cpu", copy=True) for (name, _), tensor in zip(named, whole, strict=True)}

    def export(self, folder: Path, tokenizer_folder: Path) -> None:
        """Write a Hugging Face folder (rank 0): safetensors, configuration, tokenizer; adapters also on their own, in
        `adapter`."""
        import shutil

        if self._adapters is not None:
            own = self._adapter_weights()
            if self._rank == 0:
                self._adapters.save(own, folder / "adapter")
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
        positions = torch.arange(ids.shape[1], device=self._device)[None] if self._settings.is_packed else None
        with torch.no_grad():
            trained, _ = self._engine(ids, predicts, positions)
            if self._rank:
                return 0.0
            dtype = getattr(torch, self._settings.dtype)
            exported = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(self._device)
            model = PolicyModel(exported, self._settings.head_pieces, self._settings.temperature)
            reloaded, _ = model(ids, predicts)
        return float((trained - reloaded).abs().max())

    def rest(self) -> None:
        """Give the GPU the memory that is not in use, for the engine that is about to wake on it."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    # -- checkpoints

    def save(self, folder: Path) -> None:
        """Write this rank's shards of parameters and optimizer below `folder`."""
        (folder / TAG).mkdir(parents=True, exist_ok=True)
        self.snapshot(folder).write()

    def snapshot(self, folder: Path) -> Snapshot:
        """A copy in host memory (collective), of which the files below `folder` can be made while the policy trains."""
        self._engine.save_checkpoint(
            str(folder), tag="policy", save_latest=False, exclude_frozen_parameters=self._adapters is not None
        )
        for hook in self._lasting_hooks:
            hook.save(folder, self)
        return self._snapshots.latest

    def keep(self, state: Any, file: Path) -> None:
        self._snapshots.save(state, file)

    def kept(self, file: Path) -> Any:
        return self._snapshots.load(file, weights_only=True)

    def restore(self, files: Files) -> None:
        """Load this rank's files of a snapshot, of as many ranks, from memory (collective)."""
        with TemporaryDirectory() as folder:
            self._snapshots.hold(files, Path(folder))
            try:
                self.load(Path(folder))
            finally:
                self._snapshots.release()

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, or its universal form.

        Raises:
            RuntimeError: the checkpoint is missing or was written by another number of ranks.
        """
        self._engine._config.load_universal_checkpoint = is_universal(folder)
        path, _ = self._engine.load_checkpoint(str(folder), tag="policy", load_module_strict=self._adapters is None)
        if path is None:
            raise RuntimeError(f"no policy checkpoint in {folder}")
        if is_universal(folder):
            finish_loading(folder, self.zero, self._rank)
        for hook in self._lasting_hooks:
            hook.load(folder, self)
