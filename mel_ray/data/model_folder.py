"""Finding a model's folder: the embedded model, a local folder, or a hub id."""

import json
from pathlib import Path

from mel_ray.records.problem import ConfigError, Problem

EMBEDDED = Path(__file__).parent / "world" / "base_model"


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
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise _problem(path, f"its config.json cannot be read ({error})", "give a complete model folder") from error
    if not config.get("architectures"):
        raise _problem(path, "its config.json names no architecture", "give a causal language model")
    weights = [f for pattern in ("*.safetensors", "*.bin") for f in folder.glob(pattern)]
    if not weights or any(file.stat().st_size == 0 for file in weights):
        raise _problem(path, "it holds no weights (*.safetensors)", "give a complete model folder")
    for file in folder.glob("*.safetensors"):
        _check_safetensors(path, file)
    return folder.resolve()


def _check_safetensors(path: str, file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise _problem(path, f"{file.name} is damaged ({error})", "copy the model again") from error


def _problem(path: str, why: str, remedy: str) -> ConfigError:
    return ConfigError([Problem("model.path", path, why, remedy)])


def _from_hub(path: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]))
    except Exception as error:  # the hub client raises a dozen kinds, which all mean: not available
        why = f"neither a local folder nor available from the hub ({type(error).__name__})"
        raise _problem(path, why, "check the name and the network, or give a local folder") from error
