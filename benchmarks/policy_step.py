"""python -m benchmarks.policy_step: the policy step alone on a Qwen3 with random weights: tokens/s, memory, MFU.

One ZeRO-3 rank in this process. Defaults are Qwen3-4B's sizes on a GPU; on a CPU choose small ones, e.g.
--hidden 128 --layers 4 --heads 4 --kv-heads 2 --mlp 384 --vocabulary 768. MFU counts 6 FLOPs per parameter and token
(8 with gradient checkpointing is the hardware's view, not ours) against --peak-tflops. With --packed the same
sequences are then laid end to end, and the ratio of both is printed.
"""

import argparse
import json
import os
import socket
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.figures import finish, median
from mel_ray.policy.packing import PackingPlan, pack
from mel_ray.policy.policy_settings import PolicySettings, Rendezvous
from mel_ray.records.step import OptimizerStep, TrainSequence, TrainSettings


def write_random_model(folder: Path, arguments: argparse.Namespace, dtype: str) -> int:
    """Save a randomly initialised Qwen3; returns its number of parameters."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        hidden_size=arguments.hidden, num_hidden_layers=arguments.layers, num_attention_heads=arguments.heads,
        num_key_value_heads=arguments.kv_heads, head_dim=arguments.head_dim, intermediate_size=arguments.mlp,
        vocab_size=arguments.vocabulary, tie_word_embeddings=True, max_position_embeddings=32768,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def sequences(arguments: argparse.Namespace) -> list[TrainSequence]:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(arguments.sequences):
        length = int(rng.integers(arguments.shortest or arguments.length // 2, arguments.length + 1))
        prompt = max(1, length // 8)
        count = length - prompt
        weight, sign = np.full(count, 1 / (count * arguments.sequences)), rng.choice([-1.0, 1.0])
        ids, mask = rng.integers(3, arguments.vocabulary, length), np.arange(length) >= prompt
        made.append(TrainSequence(ids, mask, weight, np.zeros(count), np.full(count, sign), np.full(count, -1.0)))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in {"hidden": 2560, "layers": 36, "heads": 32, "kv-heads": 8, "head-dim": 128, "mlp": 9728,
                        "vocabulary": 151936, "sequences": 32, "length": 4096, "token-budget": 16384, "rounds": 5,
                        "logprob-chunk": 1024}.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--shortest", type=int, default=0, help="tokens of the shortest sequence; half of --length")
    parser.add_argument("--packed", action="store_true", help="compare with packed sequences")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="dense bf16 peak of one GPU")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "bfloat16" if device == "cuda" else "float32"
    if device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    from mel_ray.policy.zero3 import Zero3Policy

    with tempfile.TemporaryDirectory() as scratch, socket.socket() as probe:
        parameters = write_random_model(Path(scratch), arguments, dtype)
        probe.bind(("", 0))
        port = probe.getsockname()[1]
        probe.close()
        pieces = -(-max(arguments.token_budget, arguments.length) // arguments.logprob_chunk)
        settings = PolicySettings(
            model=scratch, dtype=dtype, device=device, temperature=1.0, attention=arguments.attention,
            gradient_checkpointing=device == "cuda", head_pieces=pieces, threads=2, weight_decay=0.0,
            betas=(0.9, 0.95), max_grad_norm=1.0,
        )  # fmt: skip
        policy = Zero3Policy(settings, Rendezvous(0, 0, 1, "127.0.0.1", port))
        at_rest = torch.cuda.memory_allocated() if device == "cuda" else 0
        batch = sequences(arguments)
        lengths = [len(sequence.token_ids) for sequence in batch]

        def measured(is_packed: bool) -> tuple[list[float], PackingPlan]:
            plan = pack(lengths, 1, arguments.token_budget, is_packed)
            microbatches = [[batch[i] for i in members] for members in plan.microbatches[0]]
            policy._settings = replace(settings, is_packed=is_packed)  # a second policy would need a second process
            seconds = []
            for _ in range(arguments.rounds + 1):
                started = time.perf_counter()
                policy.update([(OptimizerStep(()), microbatches)], TrainSettings(1e-6))
                if device == "cuda":
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - started)
            return seconds, plan

        seconds, plan = measured(is_packed=False)
        packed = measured(is_packed=True)[0] if arguments.packed else None
    tokens, step = sum(len(sequence.token_ids) for sequence in batch), median(seconds[1:])
    figures = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "parameters": parameters,
        "tokens": tokens,
        "step_s": step,
        "tokens_per_s": tokens / step,
        "padding_share": 1 - tokens / plan.padded_tokens,
        "first_step_s": seconds[0],
    }
    if packed is not None:
        figures["packed_step_s"] = median(packed[1:])
        figures["packed_speedup"] = step / median(packed[1:])
    if device == "cuda":
        figures["bytes_per_parameter_at_rest"] = at_rest / parameters
        figures["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        figures["peak_share"] = 6 * parameters * tokens / step / (arguments.peak_tflops * 1e12)
    print(json.dumps(figures, indent=2))
    finish(figures)


if __name__ == "__main__":
    main()
