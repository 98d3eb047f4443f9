"""An embedded model's tokenizer: byte-level BPE with single digits, trained on the pre-training corpus."""

from collections.abc import Iterator
from itertools import islice

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mel_ray.data.world import corpus

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_PIECES = r"\n| ?\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]|\s"


def _texts(seed: int, batches: int, teaching: corpus.Teaching) -> Iterator[str]:
    for batch in islice(corpus.batches(seed, teaching), batches):
        for documents in batch:
            for prompt, completion in documents:
                yield f"user\n{prompt}\nassistant\n{completion}"


def train_tokenizer(
    seed: int, teaching: corpus.Teaching = corpus.TEACHING, vocabulary: int = 768, batches: int = 400
) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(seed, batches, teaching), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
