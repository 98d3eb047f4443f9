"""python -m benchmarks.weight_sync: time to publish weights against a plain memory copy of the same bytes.

For the embedded model and for a random Qwen3 of about 100 million parameters, over shared memory and gloo.
"""

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.common import finish, median, running_pools
from mel_ray.data.model_folder import EMBEDDED


def random_model(folder: Path) -> Path:
    """A Qwen3 with random weights, about 100 million parameters in float32, and the embedded tokenizer."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    settings = json.loads((EMBEDDED / "config.json").read_text())
    wanted = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 11, "num_attention_heads": 12,
              "num_key_value_heads": 4, "head_dim": 64}  # fmt: skip
    config = Qwen3Config(**{key: value for key, value in (settings | wanted).items() if key != "layer_types"})
    Qwen3ForCausalLM(config).save_pretrained(folder)
    for file in EMBEDDED.glob("tokenizer*"):
        shutil.copyfile(file, folder / file.name)
    return folder


def copy_seconds(size: int) -> float:
    source, target = torch.ones(size // 4), torch.empty(size // 4)
    times = []
    for _ in range(7):
        started = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - started)
    return median(times)


async def measure(model: Path, transport: str, rounds: int) -> dict[str, float]:
    overrides = [f"model.path={model}", f"cluster.weight_transfer={transport}", "cluster.rollout.kv_cache_mib=256"]
    async with running_pools(overrides) as (_, prepared, pools):
        times = []
        for version in range(1, rounds + 1):
            started = time.monotonic()
            await pools.publisher.publish(version)
            times.append(time.monotonic() - started)
        size = prepared.weight_bytes
    sync, copy = median(times), copy_seconds(size)
    print(f"{model.name:<12} {transport:<5} {size / 1e6:7.1f} MB   sync {sync:.3f} s   copy {copy:.4f} s   "
          f"{sync / copy:.1f}x", flush=True)  # fmt: skip
    return {"mb": size / 1e6, "sync_s": sync, "copy_s": copy, "sync_over_copy": sync / copy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, model in (("tiny", EMBEDDED), ("100m", random_model(Path(scratch) / "random_100m"))):
            for transport in ("shm", "gloo"):
                measured = asyncio.run(measure(model, transport, arguments.rounds))
                figures |= {f"{name}_{transport}_{key}": value for key, value in measured.items()}
    finish(figures)


if __name__ == "__main__":
    main()
