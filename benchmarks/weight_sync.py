"""python -m benchmarks.weight_sync: time to publish weights against a plain copy of the same bytes.

For two random models, about 100 million parameters and the shape of a 135M one, in float32, with one engine and two,
over shared memory and gloo; then the delta form in bfloat16 with 2% of the values changed. Passes and waits are named:
the policy's phases overlap the engines', and the engine shown is the slower one.
"""

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import running_pools
from benchmarks.figures import finish, median
from mel_ray.actors.handles import Handle
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.weights.phases import AT_THE_SAME_TIME

SHAPES = {
    "100m": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 11, "num_attention_heads": 12,
             "num_key_value_heads": 4, "head_dim": 64},
    "135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
             "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49152},
}  # fmt: skip
CPUS = 2
CHANGED = 0.02  # of the values, by one RL step


def random_model(folder: Path, shape: str) -> Path:
    """A Qwen3 with random weights in float32, and the embedded tokenizer."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    settings = json.loads((EMBEDDED / "config.json").read_text()) | SHAPES[shape]
    config = Qwen3Config(**{key: value for key, value in settings.items() if key != "layer_types"})
    Qwen3ForCausalLM(config).save_pretrained(folder)
    for file in EMBEDDED.glob("tokenizer*"):
        shutil.copyfile(file, folder / file.name)
    return folder


class PlainCopy:
    """Copies as many bytes from memory to memory, with all cores."""

    def __init__(self, size: int) -> None:
        torch.set_num_threads(CPUS)
        self._source, self._target = torch.ones(size // 4), torch.zeros(size // 4)

    def seconds(self) -> float:
        started = time.perf_counter()
        self._target.copy_(self._source)
        return time.perf_counter() - started


def inside(handle: Handle[Any], function: Any) -> Any:
    """What a function finds out about an actor from inside."""
    return handle.actor.__ray_call__.remote(function)


def sender_report(actor: Any) -> tuple[dict[str, float], int]:
    return dict(actor._sender.phases.seconds), actor._sender.sent_bytes


def engine_phases(actor: Any) -> dict[str, float]:
    return actor._engine._host._llm.collective_rpc("weight_phases")[0]


def change_some(actor: Any) -> None:
    """As an RL step does: a small share of the values becomes another."""
    for parameter in actor._policy._causal_lm.parameters():
        values = parameter.ds_tensor.data
        values[torch.randperm(len(values))[: int(len(values) * CHANGED)]] += 0.01


def medians(reports: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: median([report.get(name, 0.0) for report in reports]) for name in reports[-1]}


def summed(phases: dict[str, float]) -> float:
    return sum(seconds for name, seconds in phases.items() if name != AT_THE_SAME_TIME)


def on_gpus(transport: str, engines: int) -> list[str]:
    """A rank and the engines, each with a GPU of its own for NCCL, else one engine and the rank on one."""
    if transport != "nccl":
        return ["cluster=1x1", "model.dtype=bfloat16", "model.max_context=2048"]
    return ["cluster=1x8", f"cluster.gpus_per_node={1 + engines}", "cluster.policy.ranks=1", "model.dtype=bfloat16",
            "model.max_context=2048"]  # fmt: skip


async def measure_on_gpus(model: Path, words: Sequence[str], engines: int, rounds: int) -> dict[str, float]:
    """Seconds of a publish; the phases inside are not asked for."""
    overrides = [f"model.path={model}", f"cluster.rollout.engines={engines}", *words]
    async with running_pools(overrides) as (_, prepared, pools):
        copy, found = PlainCopy(prepared.weight_bytes), []
        for version in range(1, rounds + 3):
            copy.seconds()
            copied, started = copy.seconds(), time.perf_counter()
            await pools.publisher.publish(version)
            found.append({"sync_s": time.perf_counter() - started, "copy_s": copied, "sent_mb": 0.0})
        size = prepared.weight_bytes / 1e6
    figures = {"mb": size} | medians(found[2:])
    return figures | {"sync_over_copy": figures["sync_s"] / figures["copy_s"]}


async def measure(model: Path, words: Sequence[str], engines: int, rounds: int, changes: bool) -> dict[str, float]:
    overrides = [f"model.path={model}", f"cluster.rollout.engines={engines}", "cluster.rollout.kv_cache_mib=256",
                 f"cluster.rollout.threads={CPUS // engines}", *words]  # fmt: skip
    async with running_pools(overrides) as (_, prepared, pools):
        copy, rank, found = PlainCopy(prepared.weight_bytes), pools.policy.handles[0], []
        for version in range(1, rounds + 3):
            if changes:
                await inside(rank, change_some)
            copy.seconds()
            copied, started = copy.seconds(), time.perf_counter()
            await pools.publisher.publish(version)
            passed = time.perf_counter() - started
            policy, sent = await inside(rank, sender_report)
            engine = max([await inside(one.handle, engine_phases) for one in pools.engines.engines], key=summed)
            calls = {"calls and prefix cache": passed - summed(engine)}
            phases = {f"policy, {name}": value for name, value in policy.items()}
            phases |= {f"engine, {name}": value for name, value in (engine | calls).items()}
            found.append({"sync_s": passed, "copy_s": copied, "sent_mb": sent / 1e6} | phases)
        size = prepared.weight_bytes / 1e6
    figures = {"mb": size} | medians(found[2:])  # the first rounds ask the system for memory
    return figures | {"sync_over_copy": figures["sync_s"] / figures["copy_s"]}


def show(title: str, figures: dict[str, float]) -> None:
    print(f"\n{title}: {figures['mb']:.1f} MB, {figures['sent_mb']:.1f} MB sent, sync {figures['sync_s']:.3f} s, "
          f"copy {figures['copy_s']:.4f} s, {figures['sync_over_copy']:.1f}x")  # fmt: skip
    for name, seconds in figures.items():
        if "," in name:
            print(f"    {name:<32} {seconds:.4f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--transports", nargs="+", choices=("shm", "gloo", "nccl"), default=["shm", "gloo"])
    parser.add_argument("--engines", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--forms", nargs="+", choices=("dense", "delta"), default=["dense", "delta"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    figures: dict[str, float] = {}

    def run(key: str, title: str, model: Path, words: Sequence[str], engines: int, changes: bool = False) -> None:
        if arguments.device == "cuda":
            measured = asyncio.run(measure_on_gpus(model, words, engines, arguments.rounds))
        else:
            measured = asyncio.run(measure(model, words, engines, arguments.rounds, changes))
        show(title, measured)
        figures.update(
            {f"{key}_{name.replace(', ', '_').replace(' ', '_')}": value for name, value in measured.items()}
        )

    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.models:
            model = random_model(Path(scratch) / name, name)
            for transport in arguments.transports:
                words = [f"cluster.weight_transfer={transport}"]
                if arguments.device == "cuda":
                    words += on_gpus(transport, arguments.engines[0])
                for engines in arguments.engines if "dense" in arguments.forms else []:
                    run(
                        f"{name}_{transport}_{engines}",
                        f"{name}, {transport}, engines: {engines}",
                        model,
                        words,
                        engines,
                    )
                for delta in (False, True) if "delta" in arguments.forms else ():
                    both = [*words, "model.dtype=bfloat16", f"cluster.weight_delta={str(delta).lower()}"]
                    form = "changes" if delta else "all"
                    run(f"{name}_{transport}_bf16_{form}", f"{name}, {transport}, bfloat16, 2 engines, {form}", model,
                        both, 2, True)  # fmt: skip
    finish(figures)


if __name__ == "__main__":
    main()
