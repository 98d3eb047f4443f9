"""LoRA (arXiv 2106.09685): low-rank adapters on every linear layer are trained, the model itself is frozen.

To everyone outside, the policy has the weights of the merged model: what engines are sent, what is exported, and what
the checksums cover is W + (alpha / rank) B A.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from mel_ray.policy.policy_settings import LoraSettings

NAME = "default"
SUFFIX = ".base_layer.weight"


class Adapters:
    """The adapters of a model."""

    def __init__(self, causal_lm: nn.Module, settings: LoraSettings, base: str) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        self._config = LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", task_type="CAUSAL_LM",
            base_model_name_or_path=base,
        )  # fmt: skip
        torch.manual_seed(settings.seed)  # the same on every rank
        causal_lm.requires_grad_(False)
        inject_adapter_in_model(self._config, causal_lm, NAME)
        dtype = next(causal_lm.parameters()).dtype
        self._layers = {}
        for name, module in causal_lm.named_modules():
            if hasattr(module, "lora_A"):
                self._layers[name] = module
                for part in (module.lora_A[NAME], module.lora_B[NAME]):
                    part.to(dtype).requires_grad_(True)

    def parts(self, name: str) -> tuple[nn.Parameter, nn.Parameter] | None:
        """A [rank, inputs] and B [outputs, rank] of the weight of this name in the model with adapters."""
        layer = self._layers.get(name.removesuffix(SUFFIX)) if name.endswith(SUFFIX) else None
        return None if layer is None else (layer.lora_A[NAME].weight, layer.lora_B[NAME].weight)

    def merged(self, name: str, weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """W + (alpha / rank) B A, computed in float32, in the type of W."""
        scaling = self._layers[name.removesuffix(SUFFIX)].scaling[NAME]
        return (weight.float() + scaling * (b.float() @ a.float())).to(weight.dtype)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The model as it was before training."""
        for layer in self._layers.values():
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in self._layers.values():
                layer.enable_adapters(True)

    def save(self, state: dict[str, Tensor], folder: Path) -> None:
        """Write the adapters alone, as PEFT reads them. `state`: whole tensors by their names in the model."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        named = {f"base_model.model.{name.replace(f'.{NAME}', '')}": tensor for name, tensor in state.items()}
        save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        described = self._config.to_dict() | {"inference_mode": True}
        plain = {key: sorted(value) if isinstance(value, set) else value for key, value in described.items()}
        (folder / "adapter_config.json").write_text(json.dumps(plain, indent=2, default=str) + "\n")

    @staticmethod
    def is_part(name: str) -> bool:
        return ".lora_A." in name or ".lora_B." in name

    @staticmethod
    def merged_name(name: str) -> str:
        """What a weight of the model with adapters is called without them."""
        return name.removesuffix(SUFFIX) + ".weight" if name.endswith(SUFFIX) else name.replace(".base_layer.", ".")
