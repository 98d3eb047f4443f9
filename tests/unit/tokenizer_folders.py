"""Small tokenizers as model folders, made in the test, in the kinds that are saved on disk."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = ["Problem: Compute 3 + 4 * 5. You are a helpful assistant. user system assistant think"] * 4
SPECIALS = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{%- for message in messages %}{%- if message['role'] == 'user' %} [INST] {{ message['content'] | trim }}"  # noqa: E501
    " [/INST]{%- elif message['role'] == 'system' %}<<SYS>>{{ message['content'] }}<</SYS>>"
    "{%- else %}{% generation %} {{ message['content'] }}{{ eos_token }}{% endgeneration %}{%- endif %}{%- endfor %}"
)
TEMPLATES = {"chatml": CHATML, "llama": LLAMA}


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIALS, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def word_pieces() -> Tokenizer:
    """As SentencePiece models are converted: spaces become a mark, and the first word gets one."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)])
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=120, special_tokens=SPECIALS))
    return tokenizer


def first_word() -> Tokenizer:
    """The same as newer conversions write it: only the first word of a text gets the mark."""
    tokenizer = word_pieces()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


TOKENIZERS = {"byte level": byte_level, "word pieces": word_pieces, "first word": first_word}


def add_bos(tokenizer: Tokenizer) -> None:
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bos)]
    )


def write_folder(folder: Path, tokenizer: Tokenizer, generation: Any = None, **settings: Any) -> Path:
    """A folder with a tokenizer, `settings` in its tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder
