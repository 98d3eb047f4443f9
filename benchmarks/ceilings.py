"""python -m benchmarks.ceilings [--world rules]: what an embedded world can tell about lessons, before any training.

For every band of the world of rules, or every family of the other: success on held-out questions with no lesson, with
the right one and with the wrong one in the prompt, and how often the writer states the right rule, from a pair and from
an answer alone. Where the right lesson changes nothing, no study of lessons can find a difference.
"""

import argparse
import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from benchmarks.figures import finish
from mel_ray.actors.process import CPU_ENGINE_ENV, ENGINE_ENV
from mel_ray.config.load import compose_config
from mel_ray.config.templates import load_template
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.model_folder import locate_model
from mel_ray.data.world import corpus, problems
from mel_ray.data.world.family import Family
from mel_ray.data.world.problems import Problem
from mel_ray.data.world.rules import rules
from mel_ray.mel.parsing import ParseFailure, parse_experience
from mel_ray.mel.writer import abstraction_prompt, answer_prompt, replay_prompt
from mel_ray.records.trajectory import Sampling, derive_seed
from mel_ray.rewards.extract import last_boxed
from mel_ray.rollout.vllm_engine import EngineSettings, VllmEngine

TEMPLATE = load_template("tiny")
MODELS = {"rules": "tiny_rules", "problems": "tiny"}
COLUMNS = {
    "alone": "no lesson", "right": "right lesson", "wrong": "wrong lesson",
    "pair": "right rule from a pair", "answer": "from an answer alone",
}  # fmt: skip


def groups_of(world: str) -> dict[str, Sequence[Family]]:
    """Families by what a line of the table is about."""
    if world == "problems":
        return {family.name: (family,) for family in problems.FAMILIES}
    asked, unasked = rules()
    bands = {f"{band:g}": [one for one in asked if one.skill == band] for band in sorted({one.skill for one in asked})}
    return dict(reversed(bands.items())) | {"never asked": unasked}


@dataclass(frozen=True, slots=True)
class Asked:
    """A question in one of the columns, as the user message that the model gets."""

    column: str
    message: str
    problem: Problem

    def is_right(self, text: str) -> bool:
        if self.column not in ("pair", "answer"):
            return last_boxed(text) == self.problem.answer
        try:
            return self.problem.family.rule(True) in parse_experience(text, TEMPLATE).heuristics
        except ParseFailure:
            return False


def asked(problem: Problem, rng: Random) -> list[Asked]:
    right, wrong = (corpus.write_solution(rng, problem, is_right, None, 0.0) for is_right in (True, False))
    lessons = [corpus.write_lesson("Step 1", problem.family, is_right) for is_right in (True, False)]
    messages = {
        "alone": f"Problem: {problem.question}",
        "right": replay_prompt(TEMPLATE, problem.question, lessons[0]),
        "wrong": replay_prompt(TEMPLATE, problem.question, lessons[1]),
        "pair": abstraction_prompt(TEMPLATE, problem.question, wrong, right),
        "answer": answer_prompt(TEMPLATE, problem.question, wrong, problem.answer),
    }
    return [Asked(column, message, problem) for column, message in messages.items()]


async def measure(world: str, questions: int, samples: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """Shares by group and column, over `questions` held-out questions a group and `samples` completions of each."""
    config = compose_config([f"model={MODELS[world]}", "cluster.rollout.max_sequences=128"])
    folder = locate_model(config.model.path)
    tokenizer = ChatTokenizer(folder, config.model)
    engine = VllmEngine(EngineSettings.of(config, folder), tokenizer.decode, tokenizer.stop_ids)

    async def share(one: Asked) -> float:
        seeds = (derive_seed(seed, 0, one.problem.question, one.column, number) for number in range(samples))
        sampling = Sampling(tuple(seeds), 1.0, config.rollout.max_tokens)
        found = await engine.sample(tokenizer.prompt_ids(one.message), sampling)
        return sum(one.is_right(trajectory.text) for trajectory in found) / samples

    table, rng = {}, Random(seed)
    for name, families in groups_of(world).items():
        drawn = problems.questions("heldout", questions, seed, families=families)
        everything = [one for problem in drawn for one in asked(problem, rng)]
        shares = await asyncio.gather(*map(share, everything))
        table[name] = {
            column: sum(s for s, one in zip(shares, everything, strict=True) if one.column == column) / len(drawn)
            for column in COLUMNS
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", choices=sorted(MODELS), default="rules")
    parser.add_argument("--questions", type=int, default=64, help="held-out questions a line")
    parser.add_argument("--samples", type=int, default=4, help="completions of a question")
    options = parser.parse_args()
    os.environ.update({**ENGINE_ENV, **CPU_ENGINE_ENV})
    table = asyncio.run(measure(options.world, options.questions, options.samples))
    print(f"| {options.world} | {' | '.join(COLUMNS.values())} |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for name, shares in table.items():
        print(f"| {name} | {' | '.join(f'{shares[column]:.2f}' for column in COLUMNS)} |")
    finish({"world": options.world, "questions": options.questions, "samples": options.samples, "shares": table})


if __name__ == "__main__":
    main()
