"""The experience pool: pairs, abstraction, parsing and replay, asking whichever engine it is lent for tokens.

Consumes a mixed group and its verdict, produces drafts, then replays. A call waits for its own requests in
the engine's continuous batch and for nothing else.
"""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import ray

from mel_ray.config.schema import Config, MelConfig, ModelConfig
from mel_ray.data.chat import ChatTokenizer
from mel_ray.mel.pairing import select_pairs
from mel_ray.mel.parsing import ParseFailure, heuristics_characters, leaks_answer, parse_experience
from mel_ray.mel.prompts import abstraction_prompt, replay_prompt
from mel_ray.actors.process import redirect_output, runtime_env
from mel_ray.rollout.engine_pool import EnginePool
from mel_ray.actors.waiting import settle
from mel_ray.records.arrays import TokenIds
from mel_ray.records.experience import ContrastivePair, Draft, DraftFacts, DraftState
from mel_ray.records.exploration import DraftTicket, GroupTicket, ReplayTicket
from mel_ray.records.seeds import derive_seed
from mel_ray.records.trajectory import Group, GroupFacts, Prompt, Sampling
from mel_ray.records.verdict import GroupVerdict


class ExperienceActor:
    """Writes meta-experiences with the policy's own tokens and puts them to the test."""

    def __init__(self, mel: MelConfig, model: ModelConfig, folder: str, run_seed: int, log: Path | None) -> None:
        redirect_output(log)
        self._mel, self._max_context, self._run_seed = mel, model.max_context, run_seed
        self._tokenizer = ChatTokenizer(folder, model)

    def ready(self) -> bool:
        return True

    @ray.method(num_returns=2)
    async def abstract(
        self, group: Group, verdict: GroupVerdict, step: int, engine: Any
    ) -> tuple[tuple[Draft, ...], tuple[DraftFacts, ...]]:
        """M ~ pi(. | I, x, y+, y-) for each selected pair (MEL Eqs. 2-5), parsed and checked for leaks."""
        seed = derive_seed(self._run_seed, step, group.prompt.question_id, "pairs")
        pairs = select_pairs(group, verdict, self._mel.pairs_per_group, seed, self._mel.pair_choice)
        drafts = tuple(
            await asyncio.gather(*(self._draft(group, pair, n, step, engine) for n, pair in enumerate(pairs)))
        )
        return drafts, tuple(draft.facts() for draft in drafts)

    async def _draft(self, group: Group, pair: ContrastivePair, number: int, step: int, engine: Any) -> Draft:
        prompt = group.prompt
        correct, incorrect = group.trajectories[pair.correct].text, group.trajectories[pair.incorrect].text
        draft = partial(
            Draft,
            question=prompt.question,
            answer=prompt.answer,
            question_id=prompt.question_id,
            pair=pair,
            correct_text=correct,
            incorrect_text=incorrect,
            tolerance=prompt.tolerance,
        )
        token_ids = self._tokenizer.prompt_ids(
            abstraction_prompt(self._mel.template, prompt.question, incorrect, correct)
        )
        if len(token_ids) + self._mel.max_tokens > self._max_context:
            return draft(written=None, experience=None, state=DraftState.CONTEXT_TOO_LONG)
        seed = derive_seed(self._run_seed, step, prompt.question_id, "abstract", number)
        sampling = Sampling((seed,), self._mel.temperature, self._mel.max_tokens)
        retrospective = Prompt(prompt.question_id, prompt.question, prompt.answer, token_ids)
        written: Group = await engine.generate.remote(retrospective, sampling)[0]
        trajectory = written.trajectories[0]
        if trajectory.finish_reason == "length":
            return draft(written=written, experience=None, state=DraftState.TRUNCATED)
        try:
            experience = parse_experience(trajectory.text, self._mel.template)
        except ParseFailure as failure:
            state = DraftState.PARSE_FAILURE
            return draft(written=written, experience=None, state=state, reason=str(failure))
        if leaks_answer(experience, prompt.answer):
            return draft(written=written, experience=None, state=DraftState.LEAKED_ANSWER)
        if len(self._replay_ids(prompt.question, trajectory.text)) + self._mel.replay_max_tokens > self._max_context:
            return draft(written=written, experience=None, state=DraftState.CONTEXT_TOO_LONG, reason="the replay")
        characters = heuristics_characters(trajectory.text, self._mel.template)
        span = self._tokenizer.token_span(trajectory.token_ids, *characters)
        return draft(written=written, experience=experience, state=DraftState.PARSED, heuristics_span=span)

    @ray.method(num_returns=2)
    async def replay(self, drafts: tuple[Draft, ...], index: int, step: int, engine: Any) -> tuple[Group, GroupFacts]:
        """y_val ~ pi(. | x, M): the question again, with M in the prompt (MEL Eq. 6)."""
        draft = drafts[index]
        if draft.written is None:
            raise ValueError(f"draft {index} of {draft.question_id} was never written")
        token_ids = self._replay_ids(draft.question, draft.written.trajectories[0].text)
        seeds = (
            derive_seed(self._run_seed, step, draft.question_id, "replay", index, number)
            for number in range(self._mel.replays)
        )
        sampling = Sampling(tuple(seeds), self._mel.temperature, self._mel.replay_max_tokens)
        prompt = Prompt(draft.question_id, draft.question, draft.answer, token_ids, draft.tolerance)
        group_ref, facts_ref = engine.generate.remote(prompt, sampling)
        return await group_ref, await facts_ref

    def _replay_ids(self, question: str, experience: str) -> TokenIds:
        return self._tokenizer.prompt_ids(replay_prompt(self._mel.template, question, experience))


class ExperiencePool:
    """The experience actors, and the engines they are lent: their own, or the rollout pool's."""

    def __init__(self, config: Config, folder: Path, engines: EnginePool, logs: Path | None) -> None:
        pool, deadlines = config.cluster.experience, config.cluster.deadlines
        self._engines = engines
        self._seconds, self._start_seconds = deadlines.generate, deadlines.start
        self._log = logs / "experience.log" if logs else None
        actor = ray.remote(ExperienceActor).options(
            num_cpus=pool.cpus, max_concurrency=10_000, runtime_env=runtime_env()
        )
        self.actors: list[Any] = [
            actor.remote(config.mel, config.model, str(folder), config.run.seed, self._log) for _ in range(pool.actors)
        ]
        self._turn = 0

    async def ready(self) -> None:
        refs = [actor.ready.remote() for actor in self.actors]
        await settle(refs, "experience pool", self._start_seconds, self._log)

    def _next(self) -> Any:
        self._turn += 1
        return self.actors[self._turn % len(self.actors)]

    async def abstract(self, group: GroupTicket, verdict: GroupVerdict, step: int) -> tuple[DraftTicket, ...]:
        async with self._engines.lease() as engine:
            drafts, facts_ref = self._next().abstract.remote(group.ref, verdict, step, engine.actor)
            label = f"abstraction of question {group.facts.question_id} on {engine.name}"
            facts = await settle(facts_ref, label, self._seconds, self._log)
        return tuple(DraftTicket(drafts, index, fact) for index, fact in enumerate(facts))

    async def replay(self, draft: DraftTicket, step: int) -> ReplayTicket:
        async with self._engines.lease() as engine:
            group, facts_ref = self._next().replay.remote(draft.ref, draft.index, step, engine.actor)
            facts = await settle(facts_ref, f"replay on {engine.name}", self._seconds, self._log)
        return ReplayTicket(draft, GroupTicket(group, facts))
