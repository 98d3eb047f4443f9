"""Chat rendering and tokenization from a model folder, without importing torch or transformers.

The `tokenizers` library reads the same `tokenizer.json` that Transformers does and loads in milliseconds, so
the driver and the experience actors start at once; a test holds both to the same tokens.
"""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from mel_ray.config.schema import ModelConfig
from mel_ray.records.problem import ConfigError, Problem
from mel_ray.records.trajectory import TokenIds

# What a base model without a template of its own gets.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ message.content }}\n\n"
    "{% elif message.role == 'user' %}User: {{ message.content }}\n\n"
    "{% else %}Assistant: {{ message.content }}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _compile(source: str) -> Any:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source)


def _read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _token_text(value: Any) -> str | None:
    return value.get("content") if isinstance(value, dict) else value


class ChatTokenizer:
    """Renders messages with the model's chat template and turns text into tokens and back."""

    def __init__(self, folder: str | Path, model: ModelConfig) -> None:
        """
        Raises:
            ConfigError: the folder holds no readable tokenizer, or a stop token is unknown to it.
        """
        folder = Path(folder)
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            settings = _read_json(folder / "tokenizer_config.json")
            generation = _read_json(folder / "generation_config.json")
        except Exception as error:  # the tokenizers library raises plain Exception
            why = f"{folder} has no readable tokenizer.json ({str(error).splitlines()[0]})"
            raise ConfigError(
                [Problem("model.path", model.path, why, "give a complete Hugging Face folder")]
            ) from error
        template_file = folder / "chat_template.jinja"
        own = template_file.read_text(encoding="utf-8") if template_file.exists() else settings.get("chat_template")
        source = model.chat_template or (own if isinstance(own, str) else PLAIN_TEMPLATE)
        self._specials = {name: _token_text(settings.get(name)) or "" for name in ("bos_token", "eos_token")}
        self._system = model.system_prompt
        self._special_texts = [t.content for t in self._tokenizer.get_added_tokens_decoder().values() if t.special]
        try:
            self._template = _compile(source)
            self.render("x")
        except TemplateError as error:
            why = f"the chat template cannot be used: {error}"
            raise ConfigError(
                [Problem("model.chat_template", None, why, "set another, or another system_prompt")]
            ) from error
        self.stop_ids = self._stop_ids(model.stop_tokens, generation)

    def _stop_ids(self, stop_tokens: Sequence[str], generation: dict[str, Any]) -> tuple[int, ...]:
        ids: set[int] = set()
        for text in (self._specials["eos_token"], *stop_tokens):
            if not text:
                continue
            token = self._tokenizer.token_to_id(text)
            if token is None:
                raise ConfigError([Problem("model.stop_tokens", text, "the tokenizer has no such token")])
            ids.add(token)
        end = generation.get("eos_token_id", [])
        ids.update(end if isinstance(end, list) else [end])
        return tuple(sorted(ids))

    def render(self, user_message: str) -> str:
        """The full prompt text for one user message, ending where the assistant begins.

        Special tokens spelled out inside the message (model output may hold any text) are removed.
        """
        while any(text in user_message for text in self._special_texts):
            for text in self._special_texts:
                user_message = user_message.replace(text, "")
        system = [{"role": "system", "content": self._system}] if self._system else []
        messages = [*system, {"role": "user", "content": user_message}]
        return self._template.render(messages=messages, add_generation_prompt=True, **self._specials)

    def encode(self, rendered: str) -> TokenIds:
        return np.asarray(self._tokenizer.encode(rendered, add_special_tokens=False).ids, dtype=np.int32)

    def prompt_ids(self, user_message: str) -> TokenIds:
        return self.encode(self.render(user_message))

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
