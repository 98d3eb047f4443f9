"""Finding a model's folder: the embedded model, a local folder, or a hub id."""

import json
from pathlib import Path

from mel_ray.records.problem import ConfigError, Problem

EMBEDDED = Path(__file__).parent / "world" / "base_model"
FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model*", "*.tiktoken"]  # of a model on the hub


def locate_model(path: str) -> Path:
    """The local folder of a model; a hub id is downloaded (or found in the cache, also offline).

    Raises:
        ConfigError: there is no such model, or its folder is incomplete; one sentence.
    """
    folder = EMBEDDED if path == "embedded" else Path(path).expanduser()
    if not folder.exists():
        is_hub_id = path.count("/") == 1 and not path.startswith((".", "/", "~"))
        folder = _from_hub(path) if is_hub_id else folder
    if not folder.is_dir():
        raise _problem(path, "there is no such folder", "give an existing folder or a hub id")
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise _problem(path, "it is an adapter alone, not a model", "merge it into its base model first")
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise _problem(path, f"its config.json cannot be read ({error})", "give a complete model folder") from error
    if not config.get("architectures"):
        raise _problem(path, "its config.json names no architecture", "give a causal language model")
    weights = [f for pattern in ("*.safetensors", "pytorch_model*.bin") for f in folder.glob(pattern)]
    if not weights or any(file.stat().st_size == 0 for file in weights):
        raise _problem(path, "it holds no weights (*.safetensors)", "give a complete model folder")
    for index in folder.glob("*.safetensors.index.json"):
        shards = set(json.loads(index.read_text()).get("weight_map", {}).values())
        if missing := sorted(shards - {file.name for file in weights}):
            raise _problem(path, f"it lacks {', '.join(missing)}", "copy the model again")
    for file in folder.glob("*.safetensors"):
        _check_safetensors(path, file)
    return folder.resolve()


def _check_safetensors(path: str, file: Path) -> None:
    """The file can be read, and its weights are numbers that can be trained."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="np") as tensors:
            kinds = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _problem(path, f"{file.name} is damaged ({error})", "copy the model again") from error
    if packed := sorted(kind for kind in kinds if kind.startswith(("F4", "F6", "F8"))):
        why = f"{file.name} holds quantised weights ({', '.join(packed)}), which cannot be trained"
        raise _problem(path, why, "give the model in float32, float16 or bfloat16")


def _problem(path: str, why: str, remedy: str) -> ConfigError:
    return ConfigError([Problem("model.path", path, why, remedy)])


def _from_hub(path: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                path, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model*", "*.tiktoken"]
            )
        )
    except Exception as error:  # the hub client raises a dozen kinds, which all mean: not available
        why = f"neither a local folder nor available from the hub ({type(error).__name__})"
        raise _problem(path, why, "check the name and the network, or give a local folder") from error
