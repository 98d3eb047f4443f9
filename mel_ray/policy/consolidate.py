"""A checkpoint's shards put together again in one process, to be exported: on CPU, without Ray or other ranks."""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mel_ray.policy.policy_settings import PolicySettings
from mel_ray.records.problem import ConfigError, Problem

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed looks for a device when it is imported
with redirect_stdout(io.StringIO()):  # and logs what it found
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    from mel_ray.policy.adapters import Adapters
    from mel_ray.policy.zero3 import Zero3Policy

WRAPPER = "causal_lm."  # what names begin with in a checkpoint: `PolicyModel` holds the model under it


class WholePolicy(Zero3Policy):
    """The policy in one process that holds all of it and has no optimizer: it has weights and can be exported."""

    def __init__(self, settings: PolicySettings, trained: Mapping[str, Any]) -> None:
        """`trained`: whole parameters by their names in a checkpoint, float32, read when they are copied.

        Raises:
            ValueError: they are not those of this model.
        """
        from transformers import AutoModelForCausalLM

        self._settings, self._rank, self._world = settings, 0, 1
        causal_lm = AutoModelForCausalLM.from_pretrained(settings.model, dtype=getattr(torch, settings.dtype))
        self._causal_lm = causal_lm
        self._adapters = None if settings.lora is None else Adapters(causal_lm, settings.lora, settings.model)
        for name, parameter in causal_lm.named_parameters():
            if parameter.requires_grad:
                found = trained.get(WRAPPER + name)
                if found is None or found.shape != parameter.shape:
                    raise ValueError(f"its {name} has not the shape of the one in {settings.model}")
                parameter.data.copy_(found.contiguous())

    @contextmanager
    def _whole(self, parameters: Sequence[nn.Parameter]) -> Iterator[list[Tensor]]:
        yield [parameter.detach() for parameter in parameters]


def export_checkpoint(checkpoint: Path, settings: PolicySettings, folder: Path) -> None:
    """Write the policy of a checkpoint as a Hugging Face folder, bit for bit as the ranks would have exported it.

    Raises:
        ConfigError: the checkpoint cannot be read, or it is of another model than `settings.model`.
    """
    silence = io.StringIO()
    with redirect_stdout(silence), redirect_stderr(silence):
        try:
            trained = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint), tag="policy", lazy_mode=True)
            policy = WholePolicy(settings, trained)
        except Exception as error:  # whatever pickles, archives and DeepSpeed's own checks raise
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            why = f"the checkpoint cannot be read ({first_line[:200]})"
            raise ConfigError([Problem(str(checkpoint), None, why, "choose another one with --step")]) from error
        policy.export(folder, Path(settings.model))
