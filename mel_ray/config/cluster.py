"""What a run uses of a machine or cluster: the keys of `cluster`. The defaults fit two CPU cores."""

from typing import Annotated, Literal

from pydantic import Field

from mel_ray.config.section import NameIn, Section, transports

Transport = Annotated[str, NameIn("transport", transports, also=("auto",))]


class RolloutPoolConfig(Section):
    """Engines that sample completions; the experience pool's own engines have the same size."""

    engines: int = Field(2, ge=1)
    """Number of vLLM engines; of an elastic run, the most."""
    min_engines: int = Field(1, ge=1)
    """Number of engines with which an elastic run may begin, or go on."""
    tensor_parallel: int = Field(1, ge=1)
    """GPUs per engine."""
    cpus: float = Field(0.4, gt=0.0)
    """CPUs that Ray reserves for each engine."""
    threads: int = Field(1, ge=1)
    """CPU threads of each engine."""
    in_process: bool = True
    """Run the engine inside its actor instead of in a process of its own; on CPU only."""
    compile: bool = False
    """On CPU: compile the model, which takes a minute at the first start and a C++ compiler. It pays where many
    sequences run at once: up to twice the tokens per second. On GPU the engine always does."""
    max_sequences: int = Field(256, ge=1)
    """Largest number of sequences that an engine runs at the same time."""
    max_batched_tokens: int = Field(8192, ge=256)
    """On GPU: tokens that an engine computes in one step, so that long prompts are taken in pieces of this size."""
    memory_share: float = Field(0.85, gt=0.0, le=1.0)
    """On GPU: fraction of the memory that an engine may use."""
    kv_cache_mib: int = Field(128, ge=16)
    """On CPU: size of each engine's KV cache, in MiB."""


class ExperiencePoolConfig(Section):
    """Actors that turn groups into meta-experiences, and the engines they ask for tokens."""

    engines: int = Field(0, ge=0)
    """Number of engines of its own; 0 borrows the rollout pool's."""
    actors: int = Field(1, ge=1)
    """Number of actors."""
    cpus: float = Field(0.1, gt=0.0)
    """CPUs that Ray reserves for each actor."""


class VerifierPoolConfig(Section):
    """Actors that judge answers, each in a child process that can be killed."""

    actors: int = Field(1, ge=1)
    """Number of actors."""
    cpus: float = Field(0.1, gt=0.0)
    """CPUs that Ray reserves for each actor."""
    deadline: float = Field(5.0, gt=0.0)
    """Seconds per response after which the judging process is killed and the outcome is a timeout."""


class LoraConfig(Section):
    """Train low-rank adapters on every linear layer instead of the model."""

    rank: int = Field(0, ge=0)
    """Rank of the adapters; 0 trains the whole model."""
    alpha: int = Field(32, ge=1)
    """The adapters' product is scaled by alpha / rank."""


class PolicyPoolConfig(Section):
    """ZeRO-3 ranks that train the policy."""

    ranks: int = Field(1, ge=1)
    """Number of ranks; each uses one GPU, or on CPU at least one core."""
    cpus: float = Field(0.4, gt=0.0)
    """CPUs that Ray reserves for each rank."""
    threads: int = Field(2, ge=1)
    """CPU threads of each rank."""
    token_budget: int = Field(4096, ge=16)
    """Size of a microbatch in tokens, padding included."""
    packing: Literal["rows", "packed"] = "rows"
    """Pad sequences to the longest of a microbatch (rows), or lay them end to end without padding (packed)."""
    sequence_parallel: int = Field(1, ge=1)
    """Ranks that share the tokens of a microbatch (Ulysses); needs packing=packed."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    logprob_chunk: int = Field(4096, ge=1)
    """Token positions whose logits are in memory at the same time."""
    attention: str = "sdpa"
    """Attention implementation of Transformers."""
    offload: bool = False
    """Keep the optimizer's state in host memory and step there; slower, and 12 bytes a parameter less on the device."""
    sub_group_size: int = Field(1_000_000_000, ge=1)
    """Parameters that the optimizer steps at once; fewer need less memory for the step."""
    persistence_threshold: int = Field(100_000, ge=0)
    """Parameters with fewer elements are kept whole on every rank."""
    lora: LoraConfig = LoraConfig()


class DeadlineConfig(Section):
    """How long to wait for an actor, in seconds; waiting longer is an error."""

    start: float = Field(600.0, gt=0.0)
    """Seconds for an actor to start and load its model."""
    generate: float = Field(1800.0, gt=0.0)
    """Seconds to sample one group, write its meta-experiences or replay one."""
    judge: float = Field(600.0, gt=0.0)
    """Seconds to judge one group."""
    train: float = Field(3600.0, gt=0.0)
    """Seconds for the update of one batch."""
    publish: float = Field(600.0, gt=0.0)
    """Seconds for each phase of sending new weights to the engines."""
    checkpoint: float = Field(1800.0, gt=0.0)
    """Seconds to save, load or export the policy."""
    quiet: float = Field(600.0, gt=0.0)
    """Seconds without an answer of any actor after which the run tells who it waits for, and goes on waiting."""
    hang: float = Field(120.0, gt=0.0)
    """Seconds without a sign of life after which an actor counts as hung and is replaced."""


class ClusterConfig(Section):
    """Devices and the sizes of the four pools."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where engines and ranks run."""
    nodes: int = Field(1, ge=1)
    """Number of machines."""
    gpus_per_node: int = Field(0, ge=0)
    """GPUs of each machine."""
    elastic: bool = False
    """Begin with as many engines as there is room for, and start the others when nodes join."""
    colocated: bool = False
    """A rollout engine and a policy rank share each GPU; the engine sleeps while the policy trains."""
    gpu_memory: float = Field(80.0, gt=0.0)
    """Memory of a GPU in GB (10^9 bytes), for the estimate of `mel check`; a GPU of this machine is asked instead."""
    weight_transfer: Transport = "auto"
    """How weights travel to the engines; auto chooses by device and number of nodes."""
    weight_delta: bool = False
    """Send only the elements that changed since the last update, bit for bit; for gloo across slow networks."""
    rollout: RolloutPoolConfig = RolloutPoolConfig()
    experience: ExperiencePoolConfig = ExperiencePoolConfig()
    verifier: VerifierPoolConfig = VerifierPoolConfig()
    policy: PolicyPoolConfig = PolicyPoolConfig()
    deadlines: DeadlineConfig = DeadlineConfig()
