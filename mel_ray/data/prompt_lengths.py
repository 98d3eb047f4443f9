"""How long prompts are, in tokens of the model asked for; in words where its tokenizer cannot be had."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mel_ray.config.schema import Config
from mel_ray.config.templates import render
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.model_folder import TOKENIZER_FILES, find_folder
from mel_ray.records.problem import ConfigError
from mel_ray.records.question import Question


@dataclass(frozen=True, slots=True)
class PromptLengths:
    """`values` are counted in `unit`, tokens or words; `how` says by which model's tokenizer, or why in words.

    `cleaned` counts prompts whose messages spelled out special tokens, which were removed.
    """

    values: tuple[int, ...]
    unit: str
    how: str
    cleaned: int = 0


def prompt_lengths(config: Config, asked: Sequence[tuple[Question, str]]) -> PromptLengths:
    """Lengths of the prompts that questions make, each with its template."""
    name = config.model.path
    messages = [(render(template, question=one.text), one.context) for one, template in asked]
    try:
        tokenizer = ChatTokenizer(find_folder(name, TOKENIZER_FILES), config.model)
    except ConfigError as error:
        why = str(replace(error.problems[0], remedy="")).rstrip(".")
        words = tuple(len(message.split()) for message, _ in messages)
        return PromptLengths(words, "words", f"not tokens: {why}")
    tokens = tuple(len(tokenizer.prompt_ids(message, context)) for message, context in messages)
    cleaned = sum(tokenizer.cleans(message, context) for message, context in messages)
    model = "the embedded model; choose another with model=" if name == "embedded" else name
    return PromptLengths(tokens, "tokens", f"by the tokenizer of {model}", cleaned)
