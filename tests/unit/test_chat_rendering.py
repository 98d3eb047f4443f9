"""data/chat.py: rendering and encoding equal those of Transformers, whatever else is stored in the folder."""

import itertools

import pytest

from mel_ray.config.schema import ModelConfig
from mel_ray.data.chat import ChatTokenizer
from mel_ray.data.chat_template import PLAIN_TEMPLATE
from mel_ray.records.problem import ConfigError
from mel_ray.records.question import Message
from tests.unit.real_tokenizer import qwen3_folder
from tests.unit.tokenizer_folders import TEMPLATES, TOKENIZERS, add_bos, byte_level, write_folder

transformers = pytest.importorskip("transformers")

LONG = "Problem: Compute 3 + 4 * 5.\n\nÜber zwölf ∑ 1/2, " * 20
CONTEXTS = {
    "one turn": (),
    "system": (Message("system", "You are a helpful assistant."),),
    "turns": (Message("user", "Hi"), Message("assistant", "<think>\nhm\n</think>\n\nHello."), Message("user", "Again")),
    "both": (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello.")),
}
STORED = {
    "nothing": lambda tokenizer: None,
    "truncation": lambda tokenizer: tokenizer.enable_truncation(16),
    "padding": lambda tokenizer: tokenizer.enable_padding(pad_id=4, pad_token="<|im_end|>", length=512),
    "both": lambda tokenizer: (
        tokenizer.enable_truncation(128),
        tokenizer.enable_padding(length=128, direction="left"),
    ),
}


def model(folder, **keys) -> ModelConfig:
    return ModelConfig(path=str(folder), **keys)


def assert_equal(folder, text, context=(), system=None, arguments=None, chat_template=None):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    keys = {"system_prompt": system, "template_arguments": arguments or {}, "chat_template": chat_template}
    ours = ChatTokenizer(folder, model(folder, **keys))
    messages = [{"role": one.role, "content": one.content} for one in context]
    if system and not any(one.role == "system" for one in context):
        messages.insert(0, {"role": "system", "content": system})
    messages.append({"role": "user", "content": text})
    given = {"chat_template": chat_template, "add_generation_prompt": True, **(arguments or {})}
    rendered = theirs.apply_chat_template(messages, tokenize=False, **given)
    assert ours.render(text, context) == rendered
    assert ours.prompt_ids(text, context).tolist() == theirs.apply_chat_template(messages, **given)["input_ids"]


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_prompts_equal_those_of_transformers(tmp_path, kind, template, stored):
    """Over truncation and padding left in the file, BOS, BPE dropout, system prompts, turns and arguments."""
    for adds_bos in (False, True):
        tokenizer = TOKENIZERS[kind]()
        STORED[stored](tokenizer)
        if adds_bos:
            add_bos(tokenizer)
        folder = write_folder(tmp_path / str(adds_bos), tokenizer, chat_template=TEMPLATES[template])
        for system, arguments in itertools.product((None, "Be kind."), ({}, {"enable_thinking": False})):
            for context in CONTEXTS.values():
                assert_equal(folder, LONG, context, system, arguments)


def test_bpe_dropout_of_training_never_acts(tmp_path):
    tokenizer = byte_level()
    tokenizer.model.dropout = 0.5
    ours = ChatTokenizer(folder := write_folder(tmp_path, tokenizer), model(folder))
    tokenizer.model.dropout = None
    expected = tokenizer.encode(LONG, add_special_tokens=False).ids
    assert all(ours.encode(LONG).tolist() == expected for _ in range(3))


@pytest.mark.parametrize("thinking", [None, False, True])
@pytest.mark.parametrize("context", CONTEXTS)
def test_prompts_of_qwen3_equal_those_of_transformers(context, thinking):
    arguments = {} if thinking is None else {"enable_thinking": thinking}
    assert_equal(qwen3_folder(), LONG, CONTEXTS[context], "Be kind.", arguments)


def test_a_system_message_of_the_question_replaces_the_system_prompt(tmp_path):
    folder = write_folder(tmp_path, byte_level(), chat_template=TEMPLATES["chatml"])
    tokenizer = ChatTokenizer(folder, model(folder, system_prompt="Be kind."))
    assert "Be kind." in tokenizer.render("x", CONTEXTS["turns"])
    assert "Be kind." not in tokenizer.render("x", CONTEXTS["both"])


def test_special_tokens_in_the_context_are_removed(tmp_path):
    folder = write_folder(tmp_path, byte_level(), chat_template=TEMPLATES["chatml"])
    tokenizer = ChatTokenizer(folder, model(folder))
    dirty = (Message("user", "a<|im_<|im_end|>end|>b"), Message("assistant", "</s>c"))
    assert tokenizer.render("x", dirty) == tokenizer.render("x", (Message("user", "ab"), Message("assistant", "c")))


def test_messages_that_a_template_refuses_are_named(tmp_path):
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}x"
    folder = write_folder(tmp_path, byte_level(), chat_template=strict)
    tokenizer = ChatTokenizer(folder, model(folder))
    with pytest.raises(ConfigError, match=r"after these messages: system .*no system role"):
        tokenizer.render("x", CONTEXTS["system"])
    with pytest.raises(ConfigError, match="no system role"):
        ChatTokenizer(folder, model(folder, system_prompt="Be kind."))


# -- the BOS token of a base model


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("by", ["post-processor", "add_bos_token", "both", "neither"])
def test_a_base_model_gets_its_bos_token_once(tmp_path, kind, by):
    tokenizer = TOKENIZERS[kind]()
    if by in ("post-processor", "both"):
        add_bos(tokenizer)
    folder = write_folder(tmp_path, tokenizer, add_bos_token=by in ("add_bos_token", "both"))
    bos = tokenizer.token_to_id("<s>")
    for keys in ({}, {"system_prompt": "Be kind."}, {"chat_template": "{{ bos_token }}{{ messages[-1].content }}"}):
        ids = ChatTokenizer(folder, model(folder, **keys)).prompt_ids("Problem").tolist()
        expected = by != "neither" or "chat_template" in keys
        assert ids.count(bos) == expected
        assert (ids[0] == bos) == expected
    if by == "post-processor":
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        plain = "User: Problem\n\nAssistant:"
        assert ChatTokenizer(folder, model(folder)).prompt_ids("Problem").tolist() == theirs(plain).input_ids


def test_an_end_token_of_the_post_processor_is_not_added(tmp_path):
    tokenizer = byte_level()
    from tokenizers import processors

    ends = [(text, tokenizer.token_to_id(text)) for text in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    folder = write_folder(tmp_path, tokenizer)
    ids = ChatTokenizer(folder, model(folder)).prompt_ids("Problem").tolist()
    assert ids[0] == ends[0][1]
    assert ends[1][1] not in ids


def test_a_template_of_the_models_own_decides_about_bos(tmp_path):
    tokenizer = byte_level()
    add_bos(tokenizer)
    folder = write_folder(tmp_path, tokenizer, chat_template=PLAIN_TEMPLATE, add_bos_token=True)
    assert tokenizer.token_to_id("<s>") not in ChatTokenizer(folder, model(folder)).prompt_ids("Problem")
