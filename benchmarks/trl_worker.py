"""TRL's side of benchmarks/vs_trl.py: one GRPO step per line on stdin, its seconds and tokens on stdout.

Runs in an environment of its own (make bench-setup) and imports nothing of mel_ray.
"""

import json
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class StepOnDemand(TrainerCallback):
    """Waits for a line before each step and reports the step after it."""

    def __init__(self, lengths: list[int]) -> None:
        self._lengths = lengths

    def on_step_begin(self, args, state, control, **kwargs):
        if not sys.stdin.readline():
            control.should_training_stop = True
        self._lengths.clear()
        self._started = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        figures = {
            "seconds": time.monotonic() - self._started,
            "trajectories": len(self._lengths),
            "mean_tokens": sum(self._lengths) / max(1, len(self._lengths)),
            "max_tokens": max(self._lengths, default=0),
        }
        print("STEP " + json.dumps(figures), flush=True)


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(job["threads"])
    lengths: list[int] = []

    def reward(completions, completion_ids, answer, **kwargs):
        lengths.extend(len(ids) for ids in completion_ids)
        return [float(f"\\boxed{{{a}}}" in c[0]["content"]) for c, a in zip(completions, answer)]

    rows = [{"prompt": [{"role": "user", "content": p}], "answer": a} for p, a in job["questions"]]
    arguments = GRPOConfig(
        output_dir=job["scratch"], use_cpu=True, bf16=False, learning_rate=1e-6, beta=0.0, num_iterations=1,
        per_device_train_batch_size=job["prompts"] * job["group"], gradient_accumulation_steps=1,
        num_generations=job["group"], max_completion_length=job["max_tokens"], temperature=job["temperature"],
        max_steps=100_000, report_to=[], logging_strategy="no", save_strategy="no", disable_tqdm=True,
        shuffle_dataset=False, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=job["model"], reward_funcs=reward, args=arguments, train_dataset=Dataset.from_list(rows),
        callbacks=[StepOnDemand(lengths)],
    )  # fmt: skip
    print("READY", flush=True)
    trainer.train()


if __name__ == "__main__":
    main()
