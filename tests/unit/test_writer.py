"""mel/writer.py: section 3.2 as a pure function of a sampler: its prompts, its seeds, and the six ways a draft ends."""

import asyncio
import subprocess
import sys
from dataclasses import replace

import pytest

from mel_ray.config.templates import load_template
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.mel.writer import Writer, abstraction_prompt, replay_prompt
from mel_ray.records.experience import ContrastivePair, DraftState, Experience
from mel_ray.records.question import Question, Truth
from mel_ray.records.trajectory import FinishReason, Group, Prompt, Trajectory
from tests.unit.builders import LENGTH, STOP, config_of

CONFIG = config_of("mel.replays=3")
TOKENIZER = ChatTokenizer(EMBEDDED, CONFIG.model)
GOOD = "Bifurcation: Step 2.\nCritique: It added first.\nHeuristic: If a sum holds a product, then multiply first."
COLUMNS = {"level": 3}


def written(text: str, finish: FinishReason = STOP) -> Trajectory:
    ids = [*TOKENIZER.encode(text).tolist(), TOKENIZER.stop_ids[0]]
    return Trajectory.of_one_turn(ids, [-0.1] * len(ids), text, finish, 0, 4)


QUESTION = Prompt(
    Question("Compute 3 + 4 * 5.", Truth("23", tolerance=0.5), columns=COLUMNS),
    TOKENIZER.prompt_ids("Compute 3 + 4 * 5."),
)
GROUP = Group(QUESTION, (written("Right: \\boxed{23}"), written("Wrong: \\boxed{35}")))
PAIR = ContrastivePair(correct=0, incorrect=1)


class FakeSampler:
    """A policy that always answers the same; remembers what it was asked."""

    def __init__(self, text: str = GOOD, finish: FinishReason = STOP) -> None:
        self.answer, self.asked = written(text, finish), []

    async def __call__(self, prompt, sampling) -> Group:
        self.asked.append((prompt, sampling))
        return Group(prompt, (self.answer,) * sampling.count)


def drafted(sample, max_context=512, number=0, step=3, **options):
    mel = CONFIG.mel.model_copy(update=options)
    return asyncio.run(Writer(mel, TOKENIZER, max_context, 11).draft(GROUP, PAIR, number, step, sample))


def context_length() -> int:
    text = abstraction_prompt(CONFIG.mel.template, QUESTION.question.text, "Wrong: \\boxed{35}", "Right: \\boxed{23}")
    return len(TOKENIZER.prompt_ids(text))


def test_a_draft_that_parses_is_to_be_replayed():
    sample = FakeSampler()
    draft = drafted(sample)
    assert (draft.state, draft.reason, draft.state.fate) == (DraftState.PARSED, "", None)
    rule = "If a sum holds a product, then multiply first."
    assert draft.experience == Experience("Step 2.", "It added first.", (rule,))
    first, end = draft.heuristics_span
    assert TOKENIZER.decode(draft.trajectory.token_ids[first:end]).strip() == f"Heuristic: {rule}"
    assert end == len(draft.trajectory.token_ids)
    assert (draft.correct_text, draft.incorrect_text) == ("Right: \\boxed{23}", "Wrong: \\boxed{35}")
    assert draft.question is QUESTION.question


def test_a_context_that_does_not_fit_is_never_sampled():
    sample = FakeSampler()
    room = context_length() + CONFIG.mel.max_tokens
    draft = drafted(sample, max_context=room - 1)
    assert (draft.state, draft.written, draft.experience) == (DraftState.CONTEXT_TOO_LONG, None, None)
    assert sample.asked == []
    drafted(sample, max_context=room)
    assert len(sample.asked) == 1


@pytest.mark.parametrize(
    ("sample", "state", "reason"),
    [
        (FakeSampler(finish=LENGTH), DraftState.TRUNCATED, ""),  # though the text would parse
        (FakeSampler("Heuristic: none"), DraftState.PARSE_FAILURE, "section 'Bifurcation:' is missing"),
        (FakeSampler(GOOD.replace("multiply first", "answer 23")), DraftState.LEAKED_ANSWER, ""),
    ],
    ids=["truncated", "parse failure", "leaked answer"],
)
def test_a_draft_that_is_rejected_keeps_what_was_written(sample, state, reason):
    draft = drafted(sample)
    assert (draft.state, draft.reason, draft.experience) == (state, reason, None)
    assert draft.trajectory is sample.answer


def test_a_draft_whose_replay_would_not_fit_is_not_replayed():
    replay_tokens = len(TOKENIZER.prompt_ids(replay_prompt(CONFIG.mel.template, QUESTION.question.text, GOOD)))
    longest = 512 - replay_tokens
    fits = drafted(FakeSampler(), replay_max_tokens=longest)
    assert fits.state is DraftState.PARSED
    draft = drafted(FakeSampler(), replay_max_tokens=longest + 1)
    assert (draft.state, draft.reason, draft.experience) == (DraftState.CONTEXT_TOO_LONG, "the replay", None)
    assert draft.trajectory is not None


def test_what_the_policy_is_asked_for_a_draft():
    sample = FakeSampler()
    drafted(sample)
    ((prompt, sampling),) = sample.asked
    text = TOKENIZER.decode(prompt.token_ids)
    assert QUESTION.question.text in text
    assert text.index("Wrong: \\boxed{35}") < text.index("Right: \\boxed{23}")
    assert len(prompt.token_ids) == context_length()
    assert (sampling.count, sampling.temperature, sampling.max_tokens) == (1, 1.0, CONFIG.mel.max_tokens)


def test_what_the_policy_is_asked_for_a_replay():
    writer, sample = Writer(CONFIG.mel, TOKENIZER, 512, 11), FakeSampler()
    draft = drafted(sample)
    group = asyncio.run(writer.replay(draft, 0, 3, sample))
    prompt, sampling = sample.asked[-1]
    assert group.prompt is prompt
    text = TOKENIZER.decode(prompt.token_ids)
    assert QUESTION.question.text in text
    assert GOOD in text
    assert "Wrong: \\boxed{35}" not in text  # the experience alone, not the solutions it contrasts
    assert (sampling.temperature, sampling.max_tokens) == (1.0, CONFIG.mel.replay_max_tokens)
    assert len(set(sampling.seeds)) == 3
    # it is judged as the question itself would be
    assert prompt.question is QUESTION.question


def test_seeds_differ_between_steps_and_drafts_and_are_the_same_when_repeated():
    writer = Writer(CONFIG.mel, TOKENIZER, 512, 11)

    def seeds(number, step):
        sample = FakeSampler()
        draft = drafted(sample, number=number, step=step)
        asyncio.run(writer.replay(draft, number, step, sample))
        return tuple(seed for _, sampling in sample.asked for seed in sampling.seeds)

    every = [seeds(number, step) for number in range(3) for step in range(3)]
    assert len({seed for one in every for seed in one}) == 9 * 4
    assert seeds(1, 2) == every[5]


def test_a_draft_that_was_never_written_has_no_replay():
    writer, sample = Writer(CONFIG.mel, TOKENIZER, 512, 11), FakeSampler()
    with pytest.raises(ValueError, match="never written"):
        asyncio.run(writer.replay(replace(drafted(sample, max_context=16), written=None), 0, 3, sample))
    assert sample.asked == []


def test_prompts_show_the_incorrect_solution_first_and_never_compile_model_output():
    text = abstraction_prompt(load_template("paper"), "Q {{ 7 * 7 }}", "BAD {% raw %}", "GOOD")
    assert text.index("BAD") < text.index("GOOD")
    assert "{{ 7 * 7 }}" in text
    assert "49" not in text
    assert "M-TEXT" in replay_prompt(load_template("tiny"), "Q", " M-TEXT ")


def test_section_3_2_needs_neither_ray_nor_torch():
    code = (
        "import sys, mel_ray.mel.writer, mel_ray.mel.replay, mel_ray.mel.pairing\n"
        "print([name for name in ('ray', 'torch', 'vllm', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_of_an_all_wrong_group_the_writer_sees_the_reference_answer():
    sample, group = FakeSampler(), Group(QUESTION, (written("Wrong: \\boxed{35}"),))
    draft = asyncio.run(Writer(CONFIG.mel, TOKENIZER, 512, 11).draft(group, ContrastivePair(None, 0), 0, 3, sample))
    asked = TOKENIZER.decode(sample.asked[0][0].token_ids)
    assert "Incorrect:\nWrong: \\boxed{35}\nCorrect:\nAnswer: \\boxed{23}" in asked
    assert (draft.state, draft.correct_text, draft.incorrect_text) == (DraftState.PARSED, "", "Wrong: \\boxed{35}")
    for told in ("It erred.|If asked, then say 23.", "It must be 23.|If a, then b."):  # a replay could copy either
        critique, rule = told.split("|")
        leaking = FakeSampler(f"Bifurcation: Step 2.\nCritique: {critique}\nHeuristic: {rule}")
        writer = Writer(CONFIG.mel, TOKENIZER, 512, 11)
        draft = asyncio.run(writer.draft(group, ContrastivePair(None, 0), 0, 3, leaking))
        assert draft.state is DraftState.LEAKED_ANSWER
    # of a mixed group the critique may, as in the paper
    fine = FakeSampler("Bifurcation: Step 2.\nCritique: It must be 23.\nHeuristic: If a, then b.")
    assert drafted(fine).state is DraftState.PARSED


@pytest.mark.parametrize(
    ("lesson", "shown"),
    [
        ("own", GOOD),
        ("shuffled", "Another lesson."),
        ("irrelevant", CONFIG.mel.template.irrelevant),
        ("reference", "23"),
    ],
)
def test_what_a_replay_is_shown(lesson, shown):
    sample = FakeSampler()
    draft = drafted(sample)
    other = replace(draft, written=Group(QUESTION, (written("Another lesson."),)))
    writer = Writer(CONFIG.mel.model_copy(update={"lesson": lesson}), TOKENIZER, 512, 11)
    asyncio.run(writer.replay(draft, 0, 3, sample, other))
    expected = replay_prompt(CONFIG.mel.template, QUESTION.question.text, shown)
    assert TOKENIZER.decode(sample.asked[-1][0].token_ids) == TOKENIZER.decode(TOKENIZER.prompt_ids(expected))


def test_where_no_other_lesson_is_known_a_shuffled_one_is_an_irrelevant_text():
    sample = FakeSampler()
    writer = Writer(CONFIG.mel.model_copy(update={"lesson": "shuffled"}), TOKENIZER, 512, 11)
    asyncio.run(writer.replay(drafted(sample), 0, 3, sample, None))
    assert CONFIG.mel.template.irrelevant in TOKENIZER.decode(sample.asked[-1][0].token_ids)


def test_a_control_that_is_too_long_for_the_context_is_an_irrelevant_text():
    sample = FakeSampler()
    draft = drafted(sample)
    endless = replace(draft, question=replace(draft.question, solution="Step. " * 500))
    writer = Writer(CONFIG.mel.model_copy(update={"lesson": "reference"}), TOKENIZER, 512, 11)
    asyncio.run(writer.replay(endless, 0, 3, sample))
    asked = sample.asked[-1][0].token_ids
    assert len(asked) + CONFIG.mel.replay_max_tokens <= 512
    assert CONFIG.mel.template.irrelevant in TOKENIZER.decode(asked)


def test_a_draft_knows_whether_it_states_the_right_rule_of_a_world():
    assert drafted(FakeSampler()).states_rule is None  # the world does not know
    known = replace(QUESTION.question, columns={"world_rule": "If a sum holds a product, then multiply first."})
    draft = drafted(FakeSampler())
    assert replace(draft, question=known).states_rule is True
    assert replace(draft, question=replace(known, columns={"world_rule": "If b, then c."})).states_rule is False
