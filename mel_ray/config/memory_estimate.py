"""How much memory and disk a plan needs: arithmetic from a model's sizes, before anything is started.

Bytes throughout. What goes into the parts, and how they compare with what was measured, is in docs/cluster.md.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mel_ray.config.cluster import PolicyPoolConfig
from mel_ray.config.schema import Config
from mel_ray.config.section import algorithms
from mel_ray.records.problem import Problem
from mel_ray.weights.registry import transport_of

GB = 1_000_000_000
ITEM = {"float32": 4, "bfloat16": 2, "float16": 2}
REDUCE_BUCKET = 500_000_000  # elements of the buffer in which DeepSpeed collects gradients, however small the model
LIVE = 1_000_000_000  # parameters that DeepSpeed keeps gathered at most
CUDA_CONTEXT = 2.5 * GB  # kernels, libraries, communicators
ENGINE_OVERHEAD = 4 * GB  # activations and CUDA graphs of vLLM
SMALL_CHUNK = 1024  # positions whose logits are in memory at a time, where memory is short
HOST_OF_ACTOR = 6 * GB  # libraries, pinned buffers, what is read while loading


@dataclass(frozen=True, slots=True)
class ModelSize:
    """`parameters`: all elements; `linear`: inputs plus outputs, summed over the linear layers an adapter is put on.

    `per_layer`: elements a token leaves in one decoder layer for the backward pass.
    """

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    kv_heads: int
    head_size: int
    linear: int
    per_layer: int


@dataclass(frozen=True, slots=True)
class Need:
    """What one device, node or checkpoint needs, by part."""

    what: str
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def trained_parameters(config: Config, size: ModelSize) -> int:
    rank = config.cluster.policy.lora.rank
    return rank * size.linear if rank else size.parameters


def rank_need(config: Config, size: ModelSize) -> Need:
    """A rank of the policy, at the peak of a step."""
    pool, item = config.cluster.policy, ITEM[config.model.dtype]
    trained, ranks = trained_parameters(config, size), pool.ranks
    is_whole = pool.persistence_threshold >= size.hidden**2  # then the matrices stay on every rank
    parts = {"weights": item * (size.parameters + trained * bool(pool.lora.rank)) / (1 if is_whole else ranks)}
    if not pool.offload:
        parts |= _optimizer_parts(config, trained)
    parts["gradient buckets"] = float(item * REDUCE_BUCKET) + 4.0 * size.vocabulary * size.hidden * (not pool.lora.rank)
    if _has_reference(config) and not pool.lora.rank:
        parts["reference"] = item * size.parameters / ranks
    # One comes after the other, so the larger counts.
    forward = _activations(config, pool, size, item)
    if ranks > 1:
        forward["gathered weights"] = float(min(size.parameters, LIVE) * item)
    step = {"optimizer step": 0.0 if pool.offload else 4.0 * min(trained / ranks, pool.sub_group_size)}
    parts |= forward if sum(forward.values()) > sum(step.values()) else step
    if config.cluster.device == "cuda":
        parts["CUDA"] = CUDA_CONTEXT
    return Need("policy rank", parts)


def _has_reference(config: Config) -> bool:
    algorithm = config.algorithm
    return bool(algorithms()[algorithm.advantage].needs_reference(algorithm))


def _optimizer_parts(config: Config, trained: int) -> dict[str, float]:
    """Of one rank: Adam's moments, gradients, and the float32 weights that it steps, a copy even of float32 ones."""
    ranks = config.cluster.policy.ranks
    each = trained / ranks
    parts = {"moments": 8.0 * each, "gradients": 4.0 * each, "float32 masters": 4.0 * each}
    if config.mel.enabled and config.mel.combination == "separate":
        parts["lessons' moments"] = 8.0 * trained / ranks
    if config.mel.enabled and config.mel.reptile.every:
        parts["slow weights"] = 4.0 * trained / ranks
    return parts


def _activations(config: Config, pool: PolicyPoolConfig, size: ModelSize, item: int) -> dict[str, float]:
    """Of the longest microbatch. With checkpointing, a hidden state per layer and one layer computed again."""
    tokens = max(pool.token_budget, config.model.max_context) / pool.sequence_parallel
    layer = tokens * size.per_layer * item
    stored = size.layers * tokens * size.hidden * item + layer if pool.gradient_checkpointing else size.layers * layer
    # A piece of the logits in float32, their softmax, and the gradients of both.
    pieces = 4.0 * 4 * min(tokens, pool.logprob_chunk) * size.vocabulary
    parts = {"activations": stored, "head pieces": pieces}
    if pool.attention == "eager":
        heads = max(1, size.hidden // size.head_size)
        # Scores, their softmax in float32 and back: of the longest row, whose tokens see each other.
        parts["attention scores"] = heads * float(config.model.max_context) ** 2 * (item + 4)
    elif pool.packing == "packed" and pool.attention == "sdpa":
        parts["attention mask"] = float(max(pool.token_budget, config.model.max_context)) ** 2 * (item + 1)
    return parts


PASSING = (
    "activations", "head pieces", "attention scores", "attention mask", "gathered weights", "optimizer step",
)  # fmt: skip


def resident(need: Need) -> float:
    """What stays on a rank's GPU while it does nothing."""
    return sum(amount for name, amount in need.parts.items() if name not in PASSING)


def kv_bytes_per_token(config: Config, size: ModelSize) -> float:
    """Of one GPU of an engine."""
    heads = max(1.0, size.kv_heads / config.cluster.rollout.tensor_parallel)
    return 2.0 * size.layers * heads * size.head_size * ITEM[config.model.dtype]


def engine_need(config: Config, size: ModelSize, gpu_bytes: float) -> Need:
    """A GPU of an engine, which takes its share of the device and gives what is left to keys and values."""
    rollout = config.cluster.rollout
    weights = ITEM[config.model.dtype] * size.parameters / rollout.tensor_parallel
    if config.cluster.device == "cpu":
        return Need("engine", {"weights": weights, "keys and values": float(rollout.kv_cache_mib << 20)})
    overhead = ENGINE_OVERHEAD
    cache = max(0.0, rollout.memory_share * gpu_bytes - weights - overhead)
    return Need("engine GPU", {"weights": weights, "keys and values": cache, "activations and CUDA": overhead})


def kv_tokens(config: Config, size: ModelSize, gpu_bytes: float) -> int:
    """Tokens an engine can hold at the same time."""
    return int(engine_need(config, size, gpu_bytes).parts["keys and values"] / kv_bytes_per_token(config, size))


def checkpoint_need(config: Config, size: ModelSize) -> Need:
    """One checkpoint on disk."""
    everything = _optimizer_parts(config, trained_parameters(config, size) * config.cluster.policy.ranks)
    return Need("checkpoint", {name: part for name, part in everything.items() if name != "gradients"})


def node_need(config: Config, size: ModelSize) -> Need:
    """Host memory of the node that holds the most. A checkpoint is copied before it is written, and rank 0 holds the
    model once while it is exported. Weights that do not travel by NCCL pass through buffers on the host."""
    cluster, item = config.cluster, ITEM[config.model.dtype]
    trained, policy = trained_parameters(config, size), cluster.policy
    nodes = max(1, cluster.nodes)
    ranks = -(-policy.ranks // nodes) if cluster.device == "cpu" else min(policy.ranks, cluster.gpus_per_node or 1)
    engines = -(-(cluster.rollout.engines + cluster.experience.engines) // nodes)
    if cluster.device == "cpu":
        each = rank_need(config, size).total + 1.0 * GB
        engine = engine_need(config, size, 0.0).total + 1.0 * GB
        parts = {"ranks": ranks * each, "engines": engines * engine}
        if policy.offload:  # it is the same memory here
            parts["optimizer"] = ranks * sum(_optimizer_parts(config, trained).values())
        return Need("node", parts | _durability(config, size, ranks))
    parts = {"actors": HOST_OF_ACTOR * (ranks + engines * cluster.rollout.tensor_parallel)}
    if policy.offload:
        parts["optimizer"] = ranks * sum(_optimizer_parts(config, trained).values())
    parts |= _durability(config, size, ranks)
    buffers = {"gloo": engines, "shm": 1}.get(transport_of(cluster), 0)
    if buffers:
        parts["weights on their way"] = buffers * float(item * size.parameters)
    return Need("node", parts)


def _durability(config: Config, size: ModelSize, ranks: int) -> dict[str, float]:
    """What checkpoints and the export need of a node with as many ranks."""
    share = ranks / config.cluster.policy.ranks
    model, checkpoint = float(ITEM[config.model.dtype] * size.parameters), share * checkpoint_need(config, size).total
    shadow = 3 * checkpoint if config.checkpoint.shadow else 0.0  # the last one, the next one, and what it is made of
    return {"copy of a checkpoint": checkpoint, "state in memory": shadow, "export": model}


def find_memory_problems(
    config: Config, size: ModelSize, gpu_bytes: float, host_bytes: float | None
) -> Iterator[Problem]:
    """Where a plan needs more than there is. `host_bytes`: of a node; None where it is not known."""
    cluster = config.cluster
    if cluster.device == "cuda":
        rank = rank_need(config, size)
        if rank.total > gpu_bytes:
            why = f"a rank needs about {rank.total / GB:.0f} GB ({parts_text(rank)}) and a GPU has {gpu_bytes / GB:.0f}"
            yield Problem("cluster.policy.ranks", cluster.policy.ranks, why, _rank_remedy(config, size, gpu_bytes))
        if cluster.colocated and rank.total <= gpu_bytes:
            yield from _shared_gpu(config, size, rank, gpu_bytes)
        tokens, context = kv_tokens(config, size, gpu_bytes), config.model.max_context
        if tokens < context:
            weights = engine_need(config, size, gpu_bytes).parts["weights"]
            why = f"with {weights / GB:.0f} GB of weights an engine has room for {tokens:,} tokens, not for one context"
            way = _share_for(config, size, gpu_bytes) if cluster.colocated else "raise cluster.rollout.tensor_parallel"
            remedy = f"{way} or lower model.max_context={context}"
            yield Problem("cluster.rollout.memory_share", cluster.rollout.memory_share, why, remedy)
    node = node_need(config, size)
    if host_bytes is not None and node.total > host_bytes:
        why = (
            f"a node needs about {node.total / GB:.0f} GB of memory ({parts_text(node)}) and has {host_bytes / GB:.0f}"
        )
        yield Problem("cluster", None, why, "use a smaller model, fewer actors on a node, or larger nodes")


def find_shadow_problems(config: Config, size: ModelSize, store_bytes: float, what: str) -> Iterator[Problem]:
    """`store_bytes`: of `what` holds Ray's objects."""
    needed = 2 * checkpoint_need(config, size).total
    if config.checkpoint.shadow and store_bytes < needed:
        why = f"two states of the policy have {needed / GB:.1f} GB and {what} has {store_bytes / GB:.1f}"
        remedy = "give it more (ray start --object-store-memory=..., docker run --shm-size=...), or leave it out"
        yield Problem("checkpoint.shadow", True, why, remedy)


def _smaller_steps(config: Config, size: ModelSize, gpu_bytes: float) -> str:
    """The keys that make a rank's peak larger than it need be, if changing them is enough; else nothing."""
    policy, changes = config.cluster.policy, dict[str, object]()
    if policy.token_budget > config.model.max_context:
        changes["token_budget"] = config.model.max_context
    if not policy.gradient_checkpointing:
        changes["gradient_checkpointing"] = True
    if policy.logprob_chunk > SMALL_CHUNK:
        changes["logprob_chunk"] = SMALL_CHUNK
    if not changes or rank_need(_with_policy(config, changes), size).total > gpu_bytes:
        return ""
    return "use " + " ".join(f"cluster.policy.{name}={str(value).lower()}" for name, value in changes.items())


def _shared_gpu(config: Config, size: ModelSize, rank: Need, gpu_bytes: float) -> Iterator[Problem]:
    """A rank rests while the engine explores; the engine sleeps while the rank trains, but for its context."""
    share, less = config.cluster.rollout.memory_share, _less_of_a_rank(config)
    engine = engine_need(config, size, gpu_bytes)
    if resident(rank) + engine.total > gpu_bytes:
        left = int((1 - resident(rank) / gpu_bytes) * 100) / 100
        why = (
            f"the resting rank holds {resident(rank) / GB:.0f} of {gpu_bytes / GB:.0f} GB, which leaves {left:g} of it"
        )
        yield Problem("cluster.rollout.memory_share", share, why, f"use at most {left:g}{less}")
    if rank.total + CUDA_CONTEXT > gpu_bytes:
        why = (
            f"a training rank needs about {rank.total / GB:.0f} GB and the sleeping engine {CUDA_CONTEXT / GB:.1f}, "
            f"and the GPU has {gpu_bytes / GB:.0f}"
        )
        fewer = _smaller_steps(config, size, gpu_bytes - CUDA_CONTEXT)
        remedy = fewer or f"lower model.max_context={config.model.max_context}"
        yield Problem("cluster.colocated", True, why, f"{remedy}{less}")


def _share_for(config: Config, size: ModelSize, gpu_bytes: float) -> str:
    """The part of the GPU with which an engine has room for one context, rounded up."""
    weights = engine_need(config, size, gpu_bytes).parts["weights"]
    context = kv_bytes_per_token(config, size) * config.model.max_context
    share = math.ceil(100 * (weights + ENGINE_OVERHEAD + context) / gpu_bytes) / 100
    return f"use cluster.rollout.memory_share={share:g}" if share <= 0.98 else "use cluster.colocated=false"


def _less_of_a_rank(config: Config) -> str:
    return "" if config.cluster.policy.offload else ", or set cluster.policy.offload=true"


def _rank_remedy(config: Config, size: ModelSize, gpu_bytes: float) -> str:
    """What is enough: more ranks and fewer engines on the same GPUs, an optimizer on the host, smaller microbatches."""
    cluster, policy = config.cluster, config.cluster.policy
    gpus, width = cluster.nodes * cluster.gpus_per_node, cluster.rollout.tensor_parallel

    def fits(**changes: object) -> bool:
        return rank_need(_with_policy(config, changes), size).total <= gpu_bytes

    found = []
    others = [] if cluster.colocated else range(policy.ranks + 1, gpus - width + 1)
    for ranks in others:
        if fits(ranks=ranks):
            engines = (gpus - ranks) // width
            found.append(f"use cluster.policy.ranks={ranks} cluster.rollout.engines={engines}")
            break
    if not policy.offload and fits(offload=True):
        found.append("set cluster.policy.offload=true")
    fewer = policy.token_budget // 2
    if fewer >= config.model.max_context and fits(token_budget=fewer):
        found.append(f"use cluster.policy.token_budget={fewer}")
    return " or ".join(found) or _smaller_steps(config, size, gpu_bytes) or "use more GPUs or a smaller model"


def _with_policy(config: Config, changes: Mapping[str, object]) -> Config:
    policy = config.cluster.policy.model_copy(update=dict(changes))
    return config.model_copy(update={"cluster": config.cluster.model_copy(update={"policy": policy})})


def parts_text(need: Need) -> str:
    """The parts from the largest on, those under 1% left out."""
    shown = sorted(need.parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {amount / GB:.1f}" for name, amount in shown if amount >= 0.01 * need.total)


def memory_text(config: Config, size: ModelSize, gpu_bytes: float) -> str:
    """What `--check` prints."""
    needs = [rank_need(config, size), engine_need(config, size, gpu_bytes), node_need(config, size)]
    trained = trained_parameters(config, size)
    lines = [f"estimated memory in GB ({size.parameters / 1e9:.2f} billion parameters, {trained / 1e9:.3g} trained):"]
    lines += [f"  {need.what:<12}{need.total / GB:>7.1f}  {parts_text(need)}" for need in needs]
    lines.append(f"  an engine holds {kv_tokens(config, size, gpu_bytes):,} tokens of keys and values at a time")
    checkpoint = checkpoint_need(config, size)
    export = ITEM[config.model.dtype] * size.parameters
    disk = checkpoint.total * (config.checkpoint.keep + 1 + bool(config.checkpoint.keep_best)) + export
    lines.append(
        f"  checkpoint  {checkpoint.total / GB:>7.1f}  on disk; at most {disk / GB:.1f} with those kept, one in the "
        "making and the export"
    )
    return "\n".join(lines)
