"""The sizes of a model, from its config.json alone: Transformers builds it on the meta device, without weights."""

from functools import lru_cache
from pathlib import Path

from mel_ray.config.memory_estimate import ModelSize
from mel_ray.config.schema import Config
from mel_ray.data.architecture import Architecture
from mel_ray.data.model_folder import find_folder

# Elements a decoder layer keeps of a token beside its projections: the inputs of both norms and their outputs.
NORMS = 4
SMALL = 256 << 20  # bytes of weights that fit any machine


def model_size(folder: Path) -> ModelSize:
    """Imports torch and Transformers, which takes seconds.

    Raises:
        ValueError, KeyError, OSError: Transformers cannot build the model.
    """
    import torch
    from torch import nn
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    architecture = Architecture.of(folder)
    head = model.get_output_embeddings()
    linear = {name: one for name, one in model.named_modules() if isinstance(one, nn.Linear) and one is not head}
    layers = int(architecture.get("num_hidden_layers") or 1)
    hidden = int(architecture.get("hidden_size"))
    outputs = sum(one.out_features for one in linear.values()) // layers
    widest = max((one.out_features for one in linear.values()), default=hidden)
    return ModelSize(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=layers,
        hidden=hidden,
        vocabulary=int(architecture.vocabulary or 0),
        kv_heads=int(architecture.kv_heads or 1),
        head_size=int(architecture.head_size or 0),
        linear=sum(one.in_features + one.out_features for one in linear.values()),
        per_layer=NORMS * hidden + outputs + 2 * widest,  # the product and the activation of the gated MLP
    )


_size = lru_cache(maxsize=1)(model_size)


def size_of_model(config: Config) -> ModelSize | None:
    """From its config.json alone, which is all that is fetched of a hub id; None where it cannot be had, or where the
    model is so small that it fits any machine."""
    try:
        folder = find_folder(config.model.path, ["config.json"])
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        if config.cluster.device == "cpu" and 0 < weights < SMALL:
            return None
        return _size(folder)
    except Exception:  # a model's own configuration class raises anything; the other checks say what is wrong
        return None
