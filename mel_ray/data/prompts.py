"""Questions rendered for the policy, and the order in which a run takes them: a seeded shuffle per epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from mel_ray.config.checks import context_problems
from mel_ray.config.schema import Config
from mel_ray.config.templates import render, template_problem
from mel_ray.data.chat import ChatTokenizer
from mel_ray.records.problem import ConfigError, Problem, counted
from mel_ray.records.question import Question
from mel_ray.records.trajectory import Prompt


@dataclass(frozen=True, slots=True)
class Rendered:
    """The prompts, how many questions were too long, and how many rows the questions came from.

    `cleaned` counts questions with special tokens spelled out in their messages, which prompts leave out.
    """

    prompts: tuple[Prompt, ...]
    too_long: int
    rows: int
    cleaned: int = 0


def render_prompts(
    questions: Sequence[Question], tokenizer: ChatTokenizer, template: str, max_tokens: int, rows: int = 0
) -> Rendered:
    """One Prompt per question that fits `max_tokens` prompt tokens."""
    prompts, cleaned = [], 0
    for question in questions:
        message = render(template, question=question.text)
        token_ids = tokenizer.prompt_ids(message, question.context)
        cleaned += tokenizer.cleans(message, question.context)
        if len(token_ids) <= max_tokens:
            prompts.append(Prompt(question, token_ids))
    return Rendered(tuple(prompts), len(questions) - len(prompts), rows or len(questions), cleaned)


def too_long_words(config: Config, count: int) -> list[str]:
    """A sentence on the questions that are too long, if there are any."""
    limit = counted(config.prompt_limit, "prompt token")
    return [f"{counted(count, 'question')} dropped: longer than {limit}"] if count else []


def cleaned_words(count: int) -> list[str]:
    """A sentence on the prompts whose messages spelled out special tokens, if there are any."""
    return [f"special tokens spelled out in {counted(count, 'prompt')} were removed"] if count else []


def usable_prompts(
    config: Config, tokenizer: ChatTokenizer, questions: Sequence[Question], rows: int, key: str,
    template: str | None = None,
) -> Rendered:  # fmt: skip
    """The prompts of a source, with a template of its own or `data.prompt`; `key` names the source in problems.

    Raises:
        ConfigError: the context has no room for prompts, the template cannot be rendered, or all questions are too
            long.
    """
    limit = config.prompt_limit
    if limit < 1:
        raise ConfigError(list(context_problems(config)))
    named, used = ("data.prompt", config.data.prompt) if template is None else (f"{key}.prompt", template)
    if why := template_problem(used, "question"):
        raise ConfigError([Problem(named, used, why, "use only {{ question }}")])
    rendered = render_prompts(questions, tokenizer, used, limit, rows)
    if not rendered.prompts:
        all_of_them = f"all {len(questions)} questions are" if len(questions) > 1 else "the only question is"
        why = f"{all_of_them} longer than the limit of {counted(limit, 'prompt token')}"
        raise ConfigError([Problem(key, None, why, "raise model.max_context or data.max_prompt_tokens")])
    return rendered


@lru_cache(maxsize=2)
def epoch_order(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The permutation of `range(count)` in which an epoch visits the questions."""
    order = list(range(count))
    Random(f"order:{seed}:{epoch}").shuffle(order)
    return tuple(order)


class Cursor:
    """Walks epoch after epoch; `position` alone restores it."""

    def __init__(self, count: int, seed: int, position: int = 0) -> None:
        """
        Raises:
            ValueError: there is nothing to walk over.
        """
        if count < 1:
            raise ValueError("a cursor needs at least one question")
        self._count, self._seed, self.position = count, seed, position

    def take(self, count: int) -> list[int]:
        """The next `count` indices; those that would straddle two epochs start the next one, so that nothing repeats
        (unless `count` is more than an epoch holds)."""
        left = self._count - self.position % self._count
        if left < count <= self._count:
            self.position += left
        taken = []
        for position in range(self.position, self.position + count):
            epoch, offset = divmod(position, self._count)
            taken.append(epoch_order(self._count, self._seed, epoch)[offset])
        self.position += count
        return taken


class PromptStream:
    """Prompts in the cursor's order, epoch after epoch."""

    def __init__(self, prompts: Sequence[Prompt], seed: int, position: int = 0) -> None:
        self._prompts = prompts
        self._cursor = Cursor(len(prompts), seed, position)

    @property
    def position(self) -> int:
        return self._cursor.position

    def __len__(self) -> int:
        return len(self._prompts)

    def take(self, count: int) -> list[Prompt]:
        return [self._prompts[index] for index in self._cursor.take(count)]
