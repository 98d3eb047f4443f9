"""How a rank begins: it joins the others and loads its part of the model."""

import logging
import os
import socket
from typing import Any

import torch

from mel_ray.policy.policy_settings import PolicySettings, Rendezvous


def join(rendezvous: Rendezvous, device: str, listener: socket.socket | None) -> None:
    """Set the variables DeepSpeed reads and join the ranks' process group, which meets at the port rank 0 holds."""
    os.environ.update(
        RANK=str(rendezvous.rank),
        LOCAL_RANK=str(rendezvous.local_rank),
        WORLD_SIZE=str(rendezvous.world),
        LOCAL_WORLD_SIZE="1",
        MASTER_ADDR=rendezvous.address,
        MASTER_PORT=str(rendezvous.port),
    )
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.ERROR)
    if device == "cpu":
        # The shared-memory collectives would be compiled for a minute; gloo serves as well.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "gloo" if device == "cpu" else "nccl"
    store = torch.distributed.TCPStore(
        rendezvous.address, rendezvous.port, rendezvous.world, is_master=rendezvous.rank == 0,
        master_listen_fd=None if listener is None else listener.detach(),
    )  # fmt: skip
    torch.distributed.init_process_group(backend, store=store, rank=rendezvous.rank, world_size=rendezvous.world)
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def deepspeed_config(settings: PolicySettings) -> dict[str, Any]:
    zero: dict[str, Any] = {
        "stage": 3,
        "contiguous_gradients": True,
        "overlap_comm": settings.device == "cuda",
        "sub_group_size": settings.sub_group_size,
        "stage3_param_persistence_threshold": settings.persistence_threshold,
    }
    if settings.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": settings.device == "cuda"}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # it would be compiled for a minute and is no faster
        "steps_per_print": 10**9,
    }
    if settings.dtype == "bfloat16":
        config["bf16"] = {"enabled": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}  # dozens of microbatches add up
    return config


def load_causal_lm(settings: PolicySettings, attention: str) -> Any:
    """The model, partitioned over the ranks while it is read, so that no rank ever holds all of it (collective)."""
    from transformers import AutoModelForCausalLM
    from transformers.integrations import HfDeepSpeedConfig
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    partitioning = HfDeepSpeedConfig(deepspeed_config(settings))  # in force as long as it lives
    try:
        return AutoModelForCausalLM.from_pretrained(
            settings.model, dtype=getattr(torch, settings.dtype), attn_implementation=attention
        )
    finally:
        unset_hf_deepspeed_config()
        del partitioning
