"""How long prompts are, in tokens of the model asked for; in words where its tokenizer cannot be had."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mel_ray.config.schema import Config
from mel_ray.config.templates import render
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.records.problem import ConfigError, Problem
from mel_ray.records.question import Question

WITHOUT_WEIGHTS = ["*.json", "*.jinja", "*.txt", "*.model*", "*.tiktoken"]


@dataclass(frozen=True, slots=True)
class PromptLengths:
    """`values` are counted in `unit`, tokens or words; `how` says by which model's tokenizer, or why in words."""

    values: tuple[int, ...]
    unit: str
    how: str


def prompt_lengths(config: Config, asked: Sequence[tuple[Question, str]]) -> PromptLengths:
    """Lengths of the prompts that questions make, each with its template."""
    name = config.model.path
    try:
        tokenizer = ChatTokenizer(_tokenizer_folder(name), config.model)
    except ConfigError as error:
        words = tuple(len(render(template, question=one.text).split()) for one, template in asked)
        return PromptLengths(words, "words", f"not tokens: {error.problems[0].why}")
    tokens = tuple(
        len(tokenizer.prompt_ids(render(template, question=one.text), one.context)) for one, template in asked
    )
    model = "the embedded model; choose another with model=" if name == "embedded" else name
    return PromptLengths(tokens, "tokens", f"by the tokenizer of {model}")


def _tokenizer_folder(path: str) -> Path:
    """The folder with a model's tokenizer; of a hub id everything but the weights is downloaded.

    Raises:
        ConfigError: there is none.
    """
    folder = EMBEDDED if path == "embedded" else Path(path).expanduser()
    if folder.is_dir():
        return folder
    if path.count("/") != 1 or path.startswith((".", "/", "~")):
        raise ConfigError([Problem("model.path", path, f"there is no model folder {path}", "give an existing one")])
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=WITHOUT_WEIGHTS))
    except Exception as error:  # the hub client raises a dozen kinds, which all mean: not available
        why = f"{path} is neither a local folder nor available from the hub ({type(error).__name__})"
        raise ConfigError([Problem("model.path", path, why, "give a local folder")]) from error
