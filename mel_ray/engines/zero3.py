"""The policy on one DeepSpeed ZeRO-3 rank: joint-loss steps, weights, checkpoints, export.

Collective: every public method that touches parameters must be called on all ranks at the same time.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mel_ray.engines.settings import ParameterMeta, PolicySettings, Rendezvous
from mel_ray.engines.weight_sender import BUCKET_BYTES, buckets
from mel_ray.records.sequence import TrainSequence
from mel_ray.rl.logprobs import chunked_logprobs
from mel_ray.rl.objective import TokenBatch, joint_loss, mismatch

Microbatch = Sequence[TrainSequence]


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


class PolicyModel(nn.Module):
    """The causal LM as a function from sequences to the logprobs of their completions."""

    def __init__(self, causal_lm: nn.Module, pieces: int, temperature: float) -> None:
        super().__init__()
        self.causal_lm = causal_lm
        self._pieces, self._temperature = pieces, temperature

    def forward(self, ids: Tensor, predicts: Tensor) -> tuple[Tensor, Tensor]:
        """`ids`: [rows, width], padded on the right; `predicts`: bool [rows, width - 1], whether a position's
        next token belongs to a completion. Returns logprobs and entropy, [completion tokens] in row order.

        Padding lies behind every real token, so causal attention needs no mask.
        """
        backbone = self.causal_lm.base_model
        hidden = backbone(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        head = self.causal_lm.get_output_embeddings()
        return chunked_logprobs(hidden[predicts], ids[:, 1:][predicts], head, self._pieces, self._temperature)


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

    # -- training

    def _collate(self, microbatch: Microbatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        width = max(len(sequence.token_ids) for sequence in microbatch)
        ids = torch.zeros((len(microbatch), width), dtype=torch.long)
        predicts = torch.zeros((len(microbatch), width - 1), dtype=torch.bool)
        for row, sequence in enumerate(microbatch):
            length = len(sequence.token_ids)
            ids[row, :length] = torch.from_numpy(sequence.token_ids.astype("int64"))
            predicts[row, sequence.completion_start - 1 : length - 1] = True
        fields = {
            name: torch.cat([torch.from_numpy(getattr(sequence, name).copy()) for sequence in microbatch])
            for name in ("pg_weight", "nll_weight", "advantages", "sampled_logprobs")
        }
        to = self._device
        return ids.to(to), predicts.to(to), {name: tensor.to(to) for name, tensor in fields.items()}

    def logprobs(self, microbatches: Sequence[Microbatch]) -> list[Tensor]:
        """Logprobs of all completions under the current weights, one [completion tokens] per microbatch."""
        result = []
        with torch.no_grad():
            for microbatch in microbatches:
                ids, predicts, _ = self._collate(microbatch)
                result.append(self._engine(ids, predicts)[0])
        return result

    def step(
        self, microbatches: Sequence[Microbatch], lr: float, old_logprobs: Sequence[Tensor] | None = None
    ) -> dict[str, float]:
        """One optimizer step on the global sum of all ranks' microbatches (MEL Eq. 10).

        Returns this rank's sums (names end in `_sum`), counts and maxima (`_max`), and the global `grad_norm`.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        totals: dict[str, float] = {}
        for k, microbatch in enumerate(microbatches):
            self._engine.set_gradient_accumulation_boundary(k == len(microbatches) - 1)
            ids, predicts, fields = self._collate(microbatch)
            logprobs, entropy = self._engine(ids, predicts)
            tokens = TokenBatch(**fields, old_logprobs=old_logprobs[k] if old_logprobs else None)
            loss, parts = joint_loss(
                logprobs, tokens, self._settings.clip_low, self._settings.clip_high, self._settings.importance_cap
            )
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss of microbatch {k} is {loss.item()}")
            self._add_statistics(totals, tokens, logprobs, entropy, parts, ids.numel(), microbatch)
            # DeepSpeed averages gradients over ranks; the weights are already global, so undo that.
            self._engine.backward(loss * self._world)
            self._engine.step()
        totals["grad_norm"] = float(self._engine.get_global_grad_norm() or 0.0)
        return totals

    @staticmethod
    def _add_statistics(
        totals: dict[str, float],
        tokens: TokenBatch,
        logprobs: Tensor,
        entropy: Tensor,
        parts: dict[str, Tensor],
        padded: int,
        microbatch: Microbatch,
    ) -> None:
        is_policy = tokens.pg_weight > 0
        reference = logprobs.detach() if tokens.old_logprobs is None else tokens.old_logprobs
        differences = mismatch(reference[is_policy], tokens.sampled_logprobs[is_policy])
        is_lesson = tokens.nll_weight > 0
        sums = {
            "policy_loss_sum": parts["policy"],
            "nll_loss_sum": parts["nll"],
            "clipped_sum": parts["clipped"],
            "entropy_sum": entropy[is_policy].sum(),
            "mismatch_kl_sum": differences["kl"],
            "mismatch_outside_sum": differences["outside"],
            "policy_tokens": is_policy.sum(),
            "lesson_nll_sum": -logprobs.detach()[is_lesson].sum(),
            "lesson_tokens": is_lesson.sum(),
        }
        for name, value in sums.items():
            totals[name] = totals.get(name, 0.0) + float(value)
        totals["mismatch_max"] = max(totals.get("mismatch_max", 0.0), float(differences["max"]))
        totals["tokens"] = totals.get("tokens", 0.0) + sum(len(sequence.token_ids) for sequence in microbatch)
        totals["padded_tokens"] = totals.get("padded_tokens", 0.0) + padded

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

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote.

        Raises:
            RuntimeError: the checkpoint is missing or was written by another number of ranks.
        """
        path, _ = self._engine.load_checkpoint(str(folder), tag="policy")
        if path is None:
            raise RuntimeError(f"no policy checkpoint in {folder}")
