"""The tokenizer of a model folder, read without torch or Transformers, with the tokens that Transformers would give it.

The `tokenizers` library reads the same `tokenizer.json` that Transformers does and loads in milliseconds. What a
trainer left in that file for its own batches (truncation, padding, BPE dropout) is switched off: a prompt is encoded
as it stands.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from mel_ray.records.problem import ConfigError, Problem

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Vocabularies from which Transformers can make a tokenizer.json.
CONVERTIBLE = ("*.model", "*.model.v*", "*.tiktoken", "tekken.json", "vocab.json", "vocab.txt")


@dataclass(frozen=True, slots=True)
class TokenizerFolder:
    """`special_tokens` maps bos_token, eos_token, ... to their texts; `settings` is tokenizer_config.json.

    `prefix_ids` are what the tokenizer puts before a plain text: its BOS token, or nothing. `end_ids` are the tokens
    that end a generation by the model's own files.
    """

    tokenizer: Tokenizer
    settings: Mapping[str, Any]
    special_tokens: Mapping[str, str]
    prefix_ids: tuple[int, ...]
    end_ids: tuple[int, ...]


def load_tokenizer(folder: Path, path: str) -> TokenizerFolder:
    """
    Raises:
        ConfigError: the folder holds no readable tokenizer.
    """
    file = folder / "tokenizer.json"
    if not file.exists():
        raise ConfigError([_missing(folder, path)])
    try:
        tokenizer = Tokenizer.from_file(str(file))
        settings = read_json(folder / "tokenizer_config.json")
        special_tokens = _special_tokens(folder, settings)
        _add_tokens(tokenizer, folder, settings, special_tokens)
        end_ids = _end_ids(folder)
    except Exception as error:  # the tokenizers library raises plain Exception
        why = f"the tokenizer in {folder} cannot be read ({str(error).splitlines()[0]})"
        raise ConfigError([Problem("model.path", path, why, "give a complete Hugging Face folder")]) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None
    prefix_ids = _prefix_ids(tokenizer, special_tokens.get("bos_token"), bool(settings.get("add_bos_token")))
    return TokenizerFolder(tokenizer, settings, special_tokens, prefix_ids, end_ids)


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file of a model's folder; an empty one if there is no such file.

    Raises:
        ValueError: the file holds no JSON object; a sentence that names it.
    """
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} does not hold an object")
    return found


def _missing(folder: Path, path: str) -> Problem:
    found = sorted(file.name for pattern in CONVERTIBLE for file in folder.glob(pattern))
    if not found:
        return Problem("model.path", path, f"{folder} has no tokenizer.json", "give a complete Hugging Face folder")
    why = f"{folder} has no tokenizer.json; its tokenizer is {', '.join(found)}"
    code = (
        "from transformers import AutoTokenizer; "
        f"AutoTokenizer.from_pretrained('{folder}').backend_tokenizer.save('{folder}/tokenizer.json')"
    )
    return Problem("model.path", path, why, f'convert it once, with python -c "{code}"')


def _text(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _special_tokens(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """A folder of an older version keeps them in special_tokens_map.json, which then counts first."""
    named = dict(settings)
    if "added_tokens_decoder" not in settings:
        named |= read_json(folder / "special_tokens_map.json")
    return {name: text for name in NAMED_TOKENS if (text := _text(named.get(name)))}


def _add_tokens(
    tokenizer: Tokenizer, folder: Path, settings: Mapping[str, Any], special_tokens: Mapping[str, str]
) -> None:
    """Tokens that stand in the configuration alone, in the order of their ids, and the named ones, as special."""
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    listed = settings.get("added_tokens_decoder")
    if listed is None:
        older = read_json(folder / "added_tokens.json")
        special = set(special_tokens.values())
        listed = {
            id_: {"content": text, "special": text in special, "normalized": text not in special}
            for text, id_ in older.items()
        }
    for _, token in sorted(listed.items(), key=lambda item: int(item[0])):
        if token["content"] not in known:
            tokenizer.add_tokens([AddedToken(**token)])
    named = [text for text in special_tokens.values() if text not in known]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in named])


def _prefix_ids(tokenizer: Tokenizer, bos_token: str | None, adds_bos: bool) -> tuple[int, ...]:
    """From the post-processor, which may add more than BOS; else BOS where the configuration asks for it."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a", add_special_tokens=True).ids
    before = next((k for k in range(len(full)) if full[k : k + len(bare)] == bare), 0)
    if before:
        return tuple(full[:before])
    return (tokenizer.token_to_id(bos_token),) if adds_bos and bos_token else ()


def _end_ids(folder: Path) -> tuple[int, ...]:
    """Of generation_config.json; a model without one has them in config.json."""
    file = folder / "generation_config.json"
    file = file if file.exists() else folder / "config.json"
    end = read_json(file).get("eos_token_id")
    ids = [token for token in (end if isinstance(end, list) else [end]) if token is not None]
    if not all(type(token) is int for token in ids):
        raise ValueError(f"eos_token_id in {file.name} is not a number or a list of numbers")
    return tuple(ids)
