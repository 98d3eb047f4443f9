"""Questions rendered for the policy: user message, chat template, tokens; over-long ones dropped and counted."""

from collections.abc import Sequence
from dataclasses import dataclass

from mel_ray.config.templates import render
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.cursor import Cursor
from mel_ray.data.question import Question
from mel_ray.records.trajectory import Prompt


@dataclass(frozen=True, slots=True)
class Rendered:
    """The prompts, how many questions were too long, and how many rows the questions came from."""

    prompts: tuple[Prompt, ...]
    too_long: int
    rows: int


def render_prompts(
    questions: Sequence[Question], tokenizer: ChatTokenizer, template: str, max_tokens: int, rows: int = 0
) -> Rendered:
    """One Prompt per question that fits `max_tokens` prompt tokens."""
    prompts = []
    for question in questions:
        token_ids = tokenizer.prompt_ids(render(template, question=question.question))
        if len(token_ids) <= max_tokens:
            prompts.append(
                Prompt(
                    question.question_id,
                    question.question,
                    question.answer,
                    token_ids,
                    question.tolerance,
                    question.columns,
                )
            )
    return Rendered(tuple(prompts), len(questions) - len(prompts), rows or len(questions))


class PromptStream:
    """Prompts in the cursor's order, epoch after epoch."""

    def __init__(self, prompts: Sequence[Prompt], seed: int, position: int = 0) -> None:
        self._prompts = prompts
        self._cursor = Cursor(len(prompts), seed, position)

    @property
    def position(self) -> int:
        return self._cursor.position

    def take(self, count: int) -> list[Prompt]:
        return [self._prompts[index] for index in self._cursor.take(count)]
