"""A checkpoint that fits any number of ranks: DeepSpeed's universal form (arXiv 2406.18820), with the hooks' state.

Shards are cut by the number of ranks that wrote them. Rank 0 puts every parameter, its moments and what hooks keep of
it together, in a file each; every rank then reads its part of each.
"""

import math
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mel_ray.policy.hooks.hook import partitions

TAG = "policy"  # the folder of DeepSpeed's files in a checkpoint
LASTING = ".lasting"  # one file per hook: what its state consists of


def is_universal(folder: Path) -> bool:
    return (folder / TAG / "zero").is_dir()


def convert(checkpoint: Path, folder: Path) -> None:
    """Write the universal form of a checkpoint into a new folder.

    Raises:
        ValueError: a shard is missing.
    """
    from deepspeed.checkpoint.ds_to_universal import main

    shards = list((checkpoint / TAG).glob("zero_pp_rank_*_model_states.pt"))
    first = torch.load(
        checkpoint / TAG / "zero_pp_rank_0_mp_rank_00_model_states.pt", map_location="cpu", weights_only=False
    )
    if len(shards) != first["dp_world_size"]:
        raise ValueError(f"{checkpoint} has {len(shards)} of {first['dp_world_size']} shards")
    # One worker: others would be forked from a process that has threads.
    options = {"num_extract_workers": 1, "num_merge_workers": 1, "keep_temp_folder": False, "strict": True}
    main(Namespace(input_folder=str(checkpoint / TAG), output_folder=str(folder / TAG), **options))
    _drop_rank_0(folder / TAG / "zero" / "optimizer_state.pt")
    for file in checkpoint.glob("*-0.pt"):
        stem = file.name.removesuffix("-0.pt")
        files = [checkpoint / f"{stem}-{rank}.pt" for rank in range(len(shards))]
        stored = [torch.load(one, map_location="cpu", mmap=True, weights_only=True) for one in files]
        _merge(stem, stored, first["param_shapes"], folder)


def _drop_rank_0(file: Path) -> None:
    """DeepSpeed keeps all of rank 0's state in the file that every rank reads, and needs its step and groups alone."""
    state = torch.load(file, map_location="cpu", weights_only=False)
    state.pop("fp32_flat_groups")
    adam = state["optimizer_state_dict"]
    adam["state"] = {0: {"step": adam["state"][0]["step"]}}
    torch.save(state, file)


def _fields(state: Tensor | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {"": state} if isinstance(state, Tensor) else state


def _merge(stem: str, stored: list[Any], shapes: list[Mapping[str, torch.Size]], folder: Path) -> None:
    """Put a hook's flat partitions together, a parameter at a time. `stored`: [rank][group], a tensor or several by
    name. Numbers are the same on all ranks."""
    kept: dict[str, Tensor | None] = {}
    for number, group in enumerate(shapes):
        parts = [_fields(of_rank[number]) for of_rank in stored]
        for key, tensor in parts[0].items():
            if tensor.ndim == 0:
                kept[key] = tensor.clone()
                continue
            kept[key], begin = None, 0
            for name, shape in group.items():
                end = begin + math.ceil(shape.numel() / len(stored))
                whole = torch.cat([part[key][begin:end] for part in parts])[: shape.numel()]
                torch.save({"param": whole}, folder / TAG / "zero" / name / f"{stem}.{key}.pt")
                begin = end
    torch.save(kept, folder / f"{stem}{LASTING}")


def finish_loading(folder: Path, zero: Any, rank: int) -> None:
    """After DeepSpeed has read its part: give groups a step count each, and write this rank's files for its hooks."""
    for partition in partitions(zero):
        # All groups share one tensor, and Adam would count it up once per group.
        state = zero.optimizer.state[partition]
        state["step"] = state["step"].to(partition.device, copy=True)
    for file in folder.glob(f"*{LASTING}"):
        kept = torch.load(file, weights_only=True)
        stored = []
        for group, partition in zip(zero.fp16_groups, partitions(zero), strict=True):
            own = {
                key: _part(folder, f"{file.stem}.{key}", group, zero) if number is None else number
                for key, number in kept.items()
            }
            own = {key: tensor.to(partition.device, copy=True) for key, tensor in own.items()}
            stored.append(own.get("", own))
        torch.save(stored, folder / f"{file.stem}-{rank}.pt")


def _part(folder: Path, key: str, group: list[Any], zero: Any) -> Tensor:
    """This rank's flat partition of a group."""
    root = folder / TAG / "zero"
    return torch.cat([zero.load_hp_checkpoint_state(str(root / zero.param_names[p]), key, param=p) for p in group])
