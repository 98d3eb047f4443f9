"""Test-time memory: benchmark questions with the most fitting lesson of a run in the prompt, without training.

The rival of internalisation: what a policy could have done by looking its lessons up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mel_ray.config.learning import RetrievalConfig
from mel_ray.config.templates import MelTemplate
from mel_ray.data.chat import ChatTokenizer
from mel_ray.mel.book import best, searched
from mel_ray.mel.writer import replay_prompt
from mel_ray.records.trajectory import Prompt


@dataclass(frozen=True, slots=True)
class Lesson:
    question_id: str
    text: str  # by which it is found
    written: str


def lessons_of_run(experiences: Sequence[Mapping[str, Any]]) -> list[Lesson]:
    """The kept ones among a run's stored experiences; of those with equal heuristics about a question the latest."""
    found = {
        searched(row["question"], row["heuristics"]): Lesson(
            row["question_id"], searched(row["question"], row["heuristics"]), row["written"]
        )
        for row in experiences
        if row["kept"]
    }
    return list(found.values())


def with_lessons(
    prompts: Sequence[Prompt], lessons: Sequence[Lesson], template: MelTemplate, tokenizer: ChatTokenizer,
    options: RetrievalConfig, longest: int,
) -> tuple[tuple[Prompt, ...], int]:  # fmt: skip
    """The prompts, and how many of them got a lesson: as a replay has it, of another question, and not if that makes
    a prompt of more than `longest` tokens."""
    asked, helped = [], 0
    for prompt in prompts:
        others = [one for one in lessons if one.question_id != prompt.question_id]
        number = best(prompt.question.text, [one.text for one in others], options)
        if number is not None:
            message = replay_prompt(template, prompt.question.text, others[number].written)
            token_ids = tokenizer.prompt_ids(message, prompt.question.context)
            if len(token_ids) <= longest:
                prompt, helped = Prompt(prompt.question, token_ids), helped + 1
        asked.append(prompt)
    return tuple(asked), helped
