"""python -m mel_ray.data.world.pretrain: train an embedded base model from scratch, deterministically.

A Qwen3 of 0.9 million parameters, Muon on its matrices and AdamW on the rest, warm-up, constant, then a
linear decay over the last 40% of the steps. One thread, so that the same seed gives the same weights. Of the world of
rules (docs/rules_world.md), how many there are, how rare success is, and how well the corpus teaches to write lessons
are options; a run on another world than the committed one names the same `rules` and `bands` in its sources.
"""

import argparse
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from mel_ray.data.model_folder import EMBEDDED_MODELS
from mel_ray.data.world import corpus
from mel_ray.data.world.rules import BANDS, LARGEST, RULES, rules
from mel_ray.data.world.tokenizer import train_tokenizer

CONTEXT = 512
VOCABULARY = {"problems": 768, "rules": 896}
MUON_LR, ADAMW_LR, WARMUP, DECAY_SHARE = 0.02, 3e-3, 50, 0.4


def build_model(tokenizer: PreTrainedTokenizerFast, hidden: int = 128, layers: int = 4) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=max(1, hidden // 64),
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.data.mul_(1 / math.sqrt(2 * layers))
    return model


def collate(tokenizer: PreTrainedTokenizerFast, documents: list[corpus.Document]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded token ids and labels, both [documents, tokens]; prompts and padding are labelled -100."""
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False)
        for prompt, _ in documents
    ]
    prompt_ids = tokenizer(prompts).input_ids
    answer_ids = tokenizer([completion + tokenizer.eos_token for _, completion in documents]).input_ids
    width = max(len(p) + len(a) for p, a in zip(prompt_ids, answer_ids, strict=True))
    ids = torch.full((len(documents), width), tokenizer.pad_token_id)
    labels = torch.full((len(documents), width), -100)
    for row, (p, a) in enumerate(zip(prompt_ids, answer_ids, strict=True)):
        ids[row, : len(p) + len(a)] = torch.tensor(p + a)
        labels[row, len(p) : len(p) + len(a)] = torch.tensor(a)
    return ids, labels


def loss_sum(model: Qwen3ForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    counts = targets != -100
    return F.cross_entropy(model.lm_head(hidden[counts]), targets[counts], reduction="sum")


def optimizers_for(model: Qwen3ForCausalLM) -> list[torch.optim.Optimizer]:
    matrices: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.dim() == 2 and "embed" not in name else rest).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.01, momentum=0.95, adjust_lr_fn="original"),
        torch.optim.AdamW(rest, lr=ADAMW_LR, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate at a step (0-based): warm-up, stable, linear decay."""
    decay = (steps - step) / (DECAY_SHARE * steps)
    return min(1.0, (step + 1) / WARMUP, max(decay, 0.01))


def train(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int, seed: int, teaching: corpus.Teaching
) -> None:
    optimizers = optimizers_for(model)
    peaks = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    stream, started, seen = corpus.batches(seed, teaching), time.monotonic(), 0
    for step in range(steps):
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak * schedule(step, steps)
        parts = [collate(tokenizer, documents) for documents in next(stream)]
        total = sum(int((labels != -100).sum()) for _, labels in parts)
        losses = []
        for ids, labels in parts:
            loss = loss_sum(model, ids, labels)
            (loss / total).backward()
            losses.append(loss.item() / int((labels != -100).sum()))
            seen += int((ids != tokenizer.pad_token_id).sum())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if (step + 1) % 50 == 0:
            names = [f"{write.__name__} {loss:.3f}" for (write, _), loss in zip(corpus.MIXTURE, losses, strict=True)]
            print(
                f"step {step + 1}/{steps}  {time.monotonic() - started:.0f} s  {seen / 1e6:.1f}M tokens  "
                + "  ".join(names),
                flush=True,
            )


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def number_of_rules(text: str) -> int:
    value = int(text)
    if not 1 <= value <= LARGEST:
        raise argparse.ArgumentTypeError(f"there can be 1 to {LARGEST} rules")
    return value


def teaching_of(options: argparse.Namespace) -> corpus.Teaching:
    if options.world == "problems":
        return corpus.TEACHING
    asked, unasked = rules(options.rules, tuple(options.bands))
    return corpus.Teaching(asked + unasked, options.lesson_right, options.answer_alone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", choices=sorted(VOCABULARY), default="problems")
    parser.add_argument("--output", type=Path, help="folder for weights and tokenizer; default: the embedded one")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rules", type=number_of_rules, default=RULES, help="number that training can ask")
    parser.add_argument("--bands", type=share, nargs="+", default=BANDS, help="initial success, dealt in turn")
    parser.add_argument("--lesson-right", type=share, default=0.6, help="share of lessons that state the right rule")
    parser.add_argument("--answer-alone", type=share, default=0.5, help="share of lessons written from an answer alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    teaching, output = teaching_of(options), options.output or EMBEDDED_MODELS[options.world]
    tokenizer = train_tokenizer(options.seed, teaching, VOCABULARY[options.world])
    model = build_model(tokenizer)
    train(model, tokenizer, options.steps, options.seed, teaching)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
