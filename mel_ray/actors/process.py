"""What every actor's process shares: its environment, and where its output goes."""

import os
from pathlib import Path
from typing import Any

COMMON_ENV = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "PYTHONWARNINGS": "ignore",
}
ENGINE_ENV = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
# An engine packs all its weights again at every update. Fresh memory for them would cost several times the packing, so
# malloc keeps what was freed, in one heap, in huge pages where the kernel allows them.
KEPT_MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"
    f":glibc.malloc.mmap_threshold={4 << 30}:glibc.malloc.trim_threshold={16 << 30}"
}
# oneDNN keeps the code of a matrix product for every batch size it has seen, by itself 1,024 of them, 0.2 MB each.
# Those that come again, one for each number of sequences under way, have room in half of that.
FEWER_KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "512"}
# Without these, vLLM compiles for seconds at the first logprobs, and two engines pin themselves to the same core.
CPU_ENGINE_ENV = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TORCHDYNAMO_DISABLE": "1", **KEPT_MEMORY, **FEWER_KERNELS,
}  # fmt: skip
COMPILED_ENGINE_ENV = {"TORCHDYNAMO_DISABLE": "0"}
# vLLM binds each worker of an engine to a NUMA node of its own, and refuses to start where there are too few.
CPU_WORKERS_ENV = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
# Microbatches differ in length, and fixed segments would leave gaps of several GB between them.
GPU_POLICY_ENV = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
CPU_POLICY_ENV = {"DS_ACCELERATOR": "cpu", "TORCHDYNAMO_DISABLE": "1"}


def runtime_env(*environments: dict[str, str], threads: int = 1) -> dict[str, Any]:
    """A Ray runtime environment with these variables and as many CPU threads."""
    merged = {**COMMON_ENV, "OMP_NUM_THREADS": str(threads)}
    for environment in environments:
        merged |= environment
    return {"env_vars": merged}


def redirect_output(log: Path | None) -> None:
    """Send everything this process and its children print to a file of the run folder.

    On a node that cannot write there, output stays with Ray's own logs.
    """
    if log is None:
        return
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:
        return
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
