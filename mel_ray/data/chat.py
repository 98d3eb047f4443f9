"""Chat rendering and tokenization from a model folder; a test holds it to the tokens of Transformers."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mel_ray.config.schema import ModelConfig
from mel_ray.data.chat_template import argument_problems, choose_template, compile_template, find_templates
from mel_ray.data.tokenizer_folder import load_tokenizer
from mel_ray.records.problem import ConfigError, Problem
from mel_ray.records.question import Message
from mel_ray.records.trajectory import TokenIds

PROBE = "x1y2z3"  # an answer that no template changes


class ChatTokenizer:
    """Renders messages with the model's chat template and turns text into tokens and back.

    `stop_ids` end a completion: the end-of-sequence token, those of the generation configuration, and
    `model.stop_tokens`.
    """

    def __init__(self, folder: str | Path, model: ModelConfig) -> None:
        """
        Raises:
            ConfigError: the folder holds no readable tokenizer, its template cannot be used, or a stop token is unknown
                to it.
        """
        folder = Path(folder)
        loaded = load_tokenizer(folder, model.path)
        self._tokenizer = loaded.tokenizer
        self._system = model.system_prompt
        self._special_texts = [t.content for t in self._tokenizer.get_added_tokens_decoder().values() if t.special]
        if problems := argument_problems(model.template_arguments):
            raise ConfigError(problems)
        # As in Transformers, an argument may replace a special token.
        self._arguments = {**loaded.special_tokens, **model.template_arguments}
        templates = _templates(folder, model, loaded.settings)
        # A template of the model's own prints the BOS token where the model wants it.
        self._prefix_ids = () if templates else loaded.prefix_ids
        self._prefix = "".join(self._tokenizer.id_to_token(token) for token in self._prefix_ids)
        source = choose_template(model.chat_template, templates)
        try:
            self._template = compile_template(source)
            self._rendered(self._messages("x", ()), True)
        except Exception as error:  # a template may fail in any way
            raise _unusable(f"the chat template cannot be used: {error}") from error
        eos_token = loaded.special_tokens.get("eos_token")
        self.stop_ids = self._stop_ids(eos_token, model.stop_tokens, loaded.end_ids)
        ends = [self._tokenizer.token_to_id(text) for text in (self.turn_end, eos_token) if text]
        known = [token for token in ends if token in self.stop_ids]
        self.end_id = next(iter([*known, *self.stop_ids]), None)  # ends a solution to imitate

    def _stop_ids(self, eos_token: str | None, stop_tokens: Sequence[str], end_ids: Sequence[int]) -> tuple[int, ...]:
        ids = set(end_ids)
        for text in (eos_token, *stop_tokens):
            if not text:
                continue
            token = self._tokenizer.token_to_id(text)
            if token is None:
                raise ConfigError([Problem("model.stop_tokens", text, "the tokenizer has no such token")])
            ids.add(token)
        return tuple(sorted(ids))

    # -- messages to text

    def render(self, user_message: str, context: Sequence[Message] = ()) -> str:
        """The full prompt text for a user message after `context`, ending where the assistant begins.

        `model.system_prompt` comes first unless the context has a system message. Special tokens spelled out inside a
        message (model output and data may hold any text) are removed.

        Raises:
            ConfigError: the template refuses these messages.
        """
        text = self._prompt_text(user_message, context)
        return text if text.startswith(self._prefix) else self._prefix + text

    def _prompt_text(self, user_message: str, context: Sequence[Message]) -> str:
        try:
            return self._rendered(self._messages(user_message, context), True)
        except Exception as error:
            roles = ", ".join(message.role for message in context)
            why = f"the chat template cannot render a question after these messages: {roles or 'none'} ({error})"
            raise _unusable(why) from error

    def _messages(self, user_message: str, context: Sequence[Message]) -> list[dict[str, str]]:
        has_system = any(message.role == "system" for message in context)
        system = [{"role": "system", "content": self._system}] if self._system and not has_system else []
        asked = [*context, Message("user", user_message)]
        return [*system, *({"role": one.role, "content": self._without_specials(one.content)} for one in asked)]

    def cleans(self, user_message: str, context: Sequence[Message] = ()) -> bool:
        """Whether `render` removes special tokens from these messages."""
        texts = [*(message.content for message in context), user_message]
        return any(self._without_specials(text) != text for text in texts)

    def _without_specials(self, text: str) -> str:
        while any(special in text for special in self._special_texts):
            for special in self._special_texts:
                text = text.replace(special, "")
        return text

    def _rendered(self, messages: Sequence[dict[str, str]], add_generation_prompt: bool) -> str:
        return self._template.render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self._arguments,
        )

    @property
    def turn_end(self) -> str | None:
        """The token that the template puts after an assistant's answer; None where it puts none."""
        answered = [*self._messages("x", ()), {"role": "assistant", "content": PROBE}]
        try:
            _, found, after = self._rendered(answered, False).rpartition(PROBE)
        except Exception:  # a template may render prompts alone
            return None
        added = [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]
        starts = [text for text in added if found and after.lstrip().startswith(text)]
        return max(starts, key=len, default=None)

    # -- text to tokens and back

    def encode(self, rendered: str) -> TokenIds:
        return np.asarray(self._tokenizer.encode(rendered, add_special_tokens=False).ids, dtype=np.int32)

    def prompt_ids(self, user_message: str, context: Sequence[Message] = ()) -> TokenIds:
        """The tokens of `render`. BOS is put before the tokens, because a tokenizer may encode the first word of a text
        in its own way."""
        text = self._prompt_text(user_message, context)
        ids = self.encode(text)
        return ids if text.startswith(self._prefix) else np.concatenate([np.asarray(self._prefix_ids, np.int32), ids])

    def decode(self, token_ids: Iterable[int]) -> str:
        """Text without special tokens."""
        return self._tokenizer.decode(list(map(int, token_ids)), skip_special_tokens=True)

    def token_span(self, token_ids: Sequence[int] | TokenIds, start: int, end: int) -> tuple[int, int]:
        """The tokens (first, one past the last) that cover characters `start` to `end` of the decoded text.

        A special token has no characters; those at the very end belong to what precedes them.
        """
        ids = list(map(int, token_ids))
        if not ids:
            return 0, 0

        def characters(count: int) -> int:
            return len(self.decode(ids[:count]))

        counts = range(1, len(ids) + 1)
        first = bisect_right(counts, start, key=characters)
        last = bisect_left(counts, end, key=characters)
        is_end = last >= len(ids) or characters(last + 1) == characters(len(ids))
        return min(first, len(ids) - 1), len(ids) if is_end else last + 1

    def decode_with_specials(self, token_ids: Iterable[int]) -> str:
        """The very text the model sees."""
        return self._tokenizer.decode(list(map(int, token_ids)), skip_special_tokens=False)

    # -- the vocabulary

    def token_text(self, token_id: int) -> str | None:
        return self._tokenizer.id_to_token(token_id)

    def token_id(self, text: str) -> int | None:
        return self._tokenizer.token_to_id(text)

    def usable_ids(self) -> set[int]:
        """Ids that may be in a prompt or end a completion: all but special tokens that the template does not print."""
        vocabulary = set(self._tokenizer.get_vocab(with_added_tokens=True).values())
        special = {id_ for id_, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        return (vocabulary - special) | set(self.prompt_ids("x").tolist()) | set(self.stop_ids)


def _templates(folder: Path, model: ModelConfig, settings: Mapping[str, Any]) -> dict[str, str]:
    try:
        return find_templates(folder, settings)
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"the chat templates in {folder} cannot be read ({type(error).__name__}: {error})"
        raise ConfigError([Problem("model.path", model.path, why, "give a complete Hugging Face folder")]) from error


def _unusable(why: str) -> ConfigError:
    return ConfigError([Problem("model.chat_template", None, why, "set another, or another system_prompt")])
