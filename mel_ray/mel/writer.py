"""Section 3.2 of the paper as a pure function of a sampler: what is asked of the policy, and what its answer is worth.

`Writer` holds no engine and no Ray; where tokens come from is the `sample` it is given.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from mel_ray.config.schema import MelConfig
from mel_ray.config.templates import MelTemplate, render
from mel_ray.data.chat import ChatTokenizer
from mel_ray.mel.parsing import ParseFailure, heuristics_characters, leaks_answer, parse_experience
from mel_ray.records.experience import ContrastivePair, Draft, DraftState
from mel_ray.records.question import Question
from mel_ray.records.trajectory import FinishReason, Group, Prompt, Sampling, TokenIds, derive_seed

Sample = Callable[[Prompt, Sampling], Awaitable[Group]]


def abstraction_prompt(template: MelTemplate, question: str, incorrect: str, correct: str) -> str:
    """C_retro = [I, x, y+, y-], the incorrect solution shown first (MEL Eqs. 2-4)."""
    return render(template.abstraction, question=question, incorrect=incorrect.strip(), correct=correct.strip())


def answer_prompt(template: MelTemplate, question: str, incorrect: str, answer: str) -> str:
    """[I, x, y*, y-] of an all-wrong group: the reference answer takes the place of y+ (beyond the paper)."""
    assert template.abstraction_from_answer is not None
    return render(template.abstraction_from_answer, question=question, incorrect=incorrect.strip(), answer=answer)


def replay_prompt(template: MelTemplate, question: str, experience: str) -> str:
    """x with M as short-term memory (MEL Eq. 6)."""
    return render(template.replay, question=question, experience=experience.strip())


class Writer:
    """Writes meta-experiences and asks for their replay."""

    def __init__(self, mel: MelConfig, tokenizer: ChatTokenizer, max_context: int, run_seed: int) -> None:
        self._mel, self._tokenizer, self._max_context, self._run_seed = mel, tokenizer, max_context, run_seed

    async def draft(self, group: Group, pair: ContrastivePair, number: int, step: int, sample: Sample) -> Draft:
        """M ~ pi(. | I, x, y+, y-) for one pair (MEL Eqs. 2-5).

        It ends in one of six ways: the context does not fit, M was cut off, M does not parse, M leaks the answer, its
        replay would not fit, or it parsed and is to be replayed.
        """
        prompt = group.prompt
        skipped = Draft(
            question=prompt.question,
            pair=pair,
            correct_text="" if pair.correct is None else group.trajectories[pair.correct].text,
            incorrect_text=group.trajectories[pair.incorrect].text,
            written=None,
            experience=None,
            state=DraftState.CONTEXT_TOO_LONG,
        )
        token_ids = self._tokenizer.prompt_ids(self._asked(skipped))
        if len(token_ids) + self._mel.max_tokens > self._max_context:
            return skipped
        seed = derive_seed(self._run_seed, step, prompt.question_id, "abstract", number)
        sampling = Sampling((seed,), self._mel.temperature, self._mel.max_tokens)
        written = await sample(Prompt(prompt.question, token_ids), sampling)
        return self._judged(replace(skipped, written=written))

    def _asked(self, draft: Draft) -> str:
        question = draft.question
        if draft.pair.correct is None:
            return answer_prompt(self._mel.template, question.text, draft.incorrect_text, question.truth.answer)
        return abstraction_prompt(self._mel.template, question.text, draft.incorrect_text, draft.correct_text)

    def _judged(self, draft: Draft) -> Draft:
        """A draft that was written, with the state its text earns."""
        trajectory = draft.trajectory
        assert trajectory is not None
        if trajectory.finish_reason is FinishReason.LENGTH:
            return replace(draft, state=DraftState.TRUNCATED)
        try:
            experience = parse_experience(trajectory.text, self._mel.template)
        except ParseFailure as failure:
            return replace(draft, state=DraftState.PARSE_FAILURE, reason=str(failure))
        told = trajectory.text if draft.pair.correct is None else ""  # the writer was told the answer
        if leaks_answer(experience, draft.question.truth.answer, told):
            return replace(draft, state=DraftState.LEAKED_ANSWER)
        if len(self._replay_ids(draft.question, trajectory.text)) + self._mel.replay_max_tokens > self._max_context:
            return replace(draft, reason="the replay")
        characters = heuristics_characters(trajectory.text, self._mel.template)
        span = self._tokenizer.token_span(trajectory.token_ids, *characters)
        return replace(draft, experience=experience, state=DraftState.PARSED, heuristics_span=span)

    async def replay(self, draft: Draft, number: int, step: int, sample: Sample, other: Draft | None = None) -> Group:
        """y_val ~ pi(. | x, M): the question again, with M in the prompt (MEL Eq. 6), or with what `mel.lesson` says;
        `other` is a draft about another question.

        Raises:
            ValueError: the draft was never written.
        """
        if draft.trajectory is None:
            raise ValueError(f"draft {number} of {draft.question.question_id} was never written")
        token_ids = self._fitting(draft.question, self._shown(draft, other))
        seeds = (
            derive_seed(self._run_seed, step, draft.question.question_id, "replay", number, k)
            for k in range(self._mel.replays)
        )
        sampling = Sampling(tuple(seeds), self._mel.temperature, self._mel.replay_max_tokens)
        return await sample(Prompt(draft.question, token_ids), sampling)

    async def recall(self, question: Question, lesson: Draft, step: int, sample: Sample) -> Group | None:
        """y ~ pi(. | x, M), M being a lesson of another question; None where it does not fit."""
        assert lesson.trajectory is not None
        token_ids = self._replay_ids(question, lesson.trajectory.text)
        if len(token_ids) + self._mel.replay_max_tokens > self._max_context:
            return None
        seeds = (derive_seed(self._run_seed, step, question.question_id, "recall", k) for k in range(self._mel.replays))
        return await sample(
            Prompt(question, token_ids), Sampling(tuple(seeds), self._mel.temperature, self._mel.replay_max_tokens)
        )

    def _shown(self, draft: Draft, other: Draft | None) -> str:
        match self._mel.lesson:
            case "reference":
                return draft.question.solution or draft.question.truth.answer
            case "shuffled" if other is not None and other.trajectory is not None:
                return other.trajectory.text
            case "shuffled" | "irrelevant":
                return self._mel.template.irrelevant
        assert draft.trajectory is not None
        return draft.trajectory.text

    def _fitting(self, question: Question, shown: str) -> TokenIds:
        """The prompt of a replay; of a control that is too long for the context, that with an irrelevant text, or with
        none."""
        for text in (shown, self._mel.template.irrelevant):
            token_ids = self._replay_ids(question, text)
            if len(token_ids) + self._mel.replay_max_tokens <= self._max_context:
                return token_ids
        return self._replay_ids(question, "")

    def _replay_ids(self, question: Question, experience: str) -> TokenIds:
        user_message = replay_prompt(self._mel.template, question.text, experience)
        return self._tokenizer.prompt_ids(user_message, question.context)
