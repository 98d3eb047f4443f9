"""What config.json says of a model, over what the configuration class of its type says where the file is silent."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mel_ray.data.installed import class_defaults

# Keys under which architectures keep their longest sequence.
_POSITIONS = ("max_position_embeddings", "max_sequence_length", "max_seq_length", "max_seq_len", "seq_length")
# RoPE scalings whose max_position_embeddings is the scaled length already.
_ALREADY_SCALED = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "default")
# Keys by which architectures change the head's output, which the policy does not do; unset or 1 is no change.
_LOGIT_KEYS = (
    "final_logit_softcapping",
    "logits_soft_cap",
    "output_logit_soft_cap",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "logits_mup_width_multiplier",
)


@dataclass(frozen=True, slots=True)
class Architecture:
    """`config` is config.json; `text` is the part of it that describes the language model."""

    config: Mapping[str, Any]
    text: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path) -> "Architecture":
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return cls(config, config.get("text_config") or config)

    @property
    def name(self) -> str:
        return self.config["architectures"][0]

    @property
    def model_type(self) -> str:
        return str(self.config.get("model_type", ""))

    def get(self, key: str) -> Any:
        """The value of a key, which an architecture may know under a name of its own."""
        defaults = class_defaults(str(self.text.get("model_type", self.model_type)))
        own_name = (defaults.get("attribute_map") or {}).get(key, key)
        for name in (key, own_name):
            if self.text.get(name) is not None:
                return self.text[name]
        return None if key in self.text else defaults.get(own_name)

    @property
    def parts_beyond_text(self) -> list[str]:
        """The kinds of input other than text: vision, audio, ..."""
        suffixes = ("_config", "_tower", "_encoder")
        kinds = ("vision", "visual", "image", "audio", "speech", "video")
        return [kind for kind in kinds if any(self.config.get(kind + suffix) for suffix in suffixes)]

    @property
    def quantisation(self) -> str | None:
        """The method by which the weights are quantised."""
        stored = self.config.get("quantization_config") or self.config.get("compression_config")
        stored = stored or self.text.get("quantization_config")
        return str(stored.get("quant_method") or "of an unknown kind") if stored else None

    @property
    def dtype(self) -> str | None:
        stored = self.config.get("dtype") or self.config.get("torch_dtype") or self.text.get("dtype")
        return str(stored).removeprefix("torch.") if stored is not None else None

    @property
    def head_size(self) -> int | None:
        """Size of an attention head; None where attention is not made of such heads (latent or none at all)."""
        if self.get("kv_lora_rank") or not self.heads:
            return None
        own = self.get("head_dim") or self.get("hidden_size_per_head")
        return int(own or (self.get("hidden_size") or 0) // self.heads) or None

    @property
    def heads(self) -> int | None:
        return self.get("num_attention_heads")

    @property
    def kv_heads(self) -> int | None:
        return self.get("num_key_value_heads") or self.heads

    @property
    def vocabulary(self) -> int | None:
        """Number of rows of the embedding."""
        return self.get("vocab_size")

    @property
    def changed_logits(self) -> list[str]:
        """The keys, with their values, that change the logits after the output head."""
        values = ((key, self.get(key)) for key in _LOGIT_KEYS)
        return [f"{key}={value:g}" for key, value in values if isinstance(value, int | float) and value != 1]

    @property
    def positions(self) -> int | None:
        """Longest sequence the model was made for, after RoPE scaling, as vLLM computes it."""
        found = [length for key in _POSITIONS if isinstance(length := self.get(key), int)]
        if not found:
            return None
        factor = 1.0
        for rope in self._ropes():
            kind = rope.get("rope_type") or rope.get("type") or "default"
            if kind not in _ALREADY_SCALED and "gemma3" not in self.model_type:
                factor = float(rope.get("factor") or 1.0)
        return max(int(min(found) * factor), int(self.config.get("model_max_length") or 0))

    def _ropes(self) -> list[Mapping[str, Any]]:
        """The RoPE settings: one for all layers, or one a kind of layer."""
        stored = self.text.get("rope_parameters") or self.text.get("rope_scaling") or {}
        nested: list[Mapping[str, Any]] = [value for value in stored.values() if isinstance(value, dict)]
        return nested or [stored]
