"""A policy with Qwen3's own tokenizer and vocabulary (151,936 entries): logprobs, optimizer steps, memory."""

import itertools

import pytest
import torch

from mel_ray.config.schema import ModelConfig
from mel_ray.data.chat import ChatTokenizer
from mel_ray.policy.model import PolicyModel
from tests.unit.real_tokenizer import qwen3_folder

transformers = pytest.importorskip("transformers")

VOCABULARY, MIB = 151_936, 1 << 20


def random_qwen3() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=64, tie_word_embeddings=True, max_position_embeddings=4096,
    )  # fmt: skip
    return transformers.AutoModelForCausalLM.from_config(config)


@pytest.fixture(scope="module")
def causal_lm():
    return random_qwen3()


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """A prompt with its answer, twice; the second answer is trained alone. ids [2, width], predicts [2, width - 1]."""
    folder = qwen3_folder()
    tokenizer = ChatTokenizer(folder, ModelConfig(path=str(folder)))
    prompt = tokenizer.prompt_ids("Compute 3 + 4 · 5. Zwölf? 十二 \\boxed{23}").tolist()
    ids = torch.tensor([[*prompt, *tokenizer.encode("3 + 20 = \\boxed{23}, 二十三<|im_end|>").tolist()]] * 2)
    predicts = torch.ones((2, ids.shape[1] - 1), dtype=torch.bool)
    predicts[1, : len(prompt) - 1] = False
    assert int(ids.max()) > 151_000  # special tokens, at the end of the vocabulary
    return ids, predicts


def test_chunked_logprobs_equal_plain_ones_over_the_whole_vocabulary(causal_lm, batch):
    ids, predicts = batch
    results = []
    for pieces in (1, 9):
        causal_lm.zero_grad()
        logprobs, entropy = PolicyModel(causal_lm, pieces, 0.7)(ids, predicts)
        logprobs.sum().backward()
        gradients = [parameter.grad.clone() for parameter in causal_lm.parameters()]
        results.append((logprobs.detach(), entropy.detach(), gradients))
    plain = torch.log_softmax(causal_lm(ids).logits[:, :-1].float() / 0.7, -1)
    chosen = plain.gather(-1, ids[:, 1:, None])[..., 0][predicts].detach()
    for logprobs, entropy, gradients in results:
        torch.testing.assert_close(logprobs, chosen, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(entropy, -(plain.exp() * plain).sum(-1)[predicts].detach(), rtol=1e-5, atol=1e-5)
        for found, expected in zip(gradients, results[0][2], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_optimizer_steps_happen(batch):
    ids, predicts = batch
    model = PolicyModel(random_qwen3(), 2, 1.0)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = -model(ids, predicts)[0].mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[0] - losses[-1] > 1.0
    assert all(not torch.equal(parameter, start[name]) for name, parameter in model.named_parameters())


def peak(causal_lm: torch.nn.Module, tokens: int, pieces: int) -> int:
    """Most bytes that tensors held at a time during a forward and backward pass."""
    ids = torch.randint(0, VOCABULARY, (1, tokens + 1))
    causal_lm.zero_grad()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        PolicyModel(causal_lm, pieces, 1.0)(ids, torch.ones((1, tokens), dtype=torch.bool))[0].sum().backward()
    events = sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return max(itertools.accumulate(changes))


def test_memory_stays_flat_however_many_tokens_there_are(causal_lm):
    few, many, plain = (peak(causal_lm, *sizes) for sizes in ((32, 2), (192, 12), (192, 1)))
    all_logits = 192 * VOCABULARY * 4
    assert many - few < all_logits / 8, f"{(many - few) / MIB:.0f} MiB more"
    assert plain - many > 2 * all_logits, f"{(plain - many) / MIB:.0f} MiB more"
