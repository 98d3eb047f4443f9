"""A question given as messages, in the forms of verl (role, content) and of conversations (from, value)."""

from collections.abc import Mapping
from typing import Any

from mel_ray.data.columns import MissingError, WrongKindError, as_text
from mel_ray.records.question import Message

_ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant", "model": "assistant",
}  # fmt: skip


def are_messages(value: Any) -> bool:
    """Whether a value is a list of messages."""
    return isinstance(value, list) and bool(value) and all(_parts(one) is not None for one in value)


def _parts(message: Any) -> tuple[Any, Any] | None:
    for role, content in (("role", "content"), ("from", "value")):
        if isinstance(message, Mapping) and role in message and content in message:
            return message[role], message[content]
    return None


def split_messages(value: list[Any]) -> tuple[tuple[Message, ...], str]:
    """(what stands before the question, the question): the question is the last user message; an answer after it is
    left out.

    Raises:
        MissingError: no user message, or a blank one.
        WrongKindError: an unknown role, or a message that is not text.
    """
    messages = [_message(*parts) for parts in map(_parts, value) if parts is not None]
    last = max((place for place, one in enumerate(messages) if one.role == "user"), default=None)
    if last is None:
        raise MissingError("no user message")
    if not messages[last].content.strip():
        raise MissingError("no question")
    return tuple(one for one in messages[:last] if one.content.strip()), messages[last].content


def _message(role: Any, content: Any) -> Message:
    known = _ROLES.get(str(role).lower())
    if known is None:
        raise WrongKindError(f"a message has the role '{role}'; known are {', '.join(_ROLES)}")
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        if not all(isinstance(text, str) for text in texts):
            raise WrongKindError("a message holds something that is not text")
        content = "\n".join(map(str, texts))
    try:
        return Message(known, as_text(content, "message"))
    except MissingError:
        return Message(known, "")
