"""The messages before a question stand in its prompt and in its replay's, and not in the abstraction's."""

import asyncio

from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.data.prompts import render_prompts
from mel_ray.mel.writer import Writer
from mel_ray.records.experience import ContrastivePair, DraftState
from mel_ray.records.question import Message, Question, Truth
from mel_ray.records.trajectory import Group
from tests.unit.builders import config_of
from tests.unit.test_writer import FakeSampler, written

CONFIG = config_of("model.system_prompt=Be kind.")
TOKENIZER = ChatTokenizer(EMBEDDED, CONFIG.model)
CONTEXT = (Message("system", "Be brief."), Message("user", "Compute 1 + 1."), Message("assistant", "2"))


def test_context_is_in_the_prompt_and_the_replay():
    question = Question("Compute 3 + 4 * 5.", Truth("23"), context=CONTEXT)
    (prompt,) = render_prompts([question], TOKENIZER, CONFIG.data.prompt, 512).prompts
    group = Group(prompt, (written("Right: \\boxed{23}"), written("Wrong: \\boxed{35}")))
    sample, writer = FakeSampler(), Writer(CONFIG.mel, TOKENIZER, 512, 11)

    async def asked():
        draft = await writer.draft(group, ContrastivePair(0, 1), 0, 1, sample)
        assert draft.state is DraftState.PARSED
        await writer.replay(draft, 0, 1, sample)
        return [TOKENIZER.decode_with_specials(one.token_ids) for one, _ in sample.asked]

    abstraction, replay = asyncio.run(asked())
    before = TOKENIZER.render("x", CONTEXT).split("<|im_start|>user\nx")[0]
    assert TOKENIZER.decode_with_specials(prompt.token_ids).startswith(before)
    assert replay.startswith(before)
    assert "Be kind." not in replay
    assert abstraction.startswith("<|im_start|>system\nBe kind.<|im_end|>")
    assert "Be brief." not in abstraction
