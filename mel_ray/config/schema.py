"""The configuration, one frozen model per group of `conf/`; every key is documented here."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from mel_ray.config.templates import MelTemplate
from mel_ray.records.update import KlEstimator, Surrogate


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class RunConfig(Section):
    name: str | None = None  # folder under `dir`; null makes a fresh name
    dir: str = "runs"
    seed: int = Field(0, ge=0)
    steps: int = Field(ge=1)
    resume: Literal["never", "auto"] = "never"  # what to do when `name` exists: refuse, or continue it


class ModelConfig(Section):
    path: str  # local folder or hub id of a Hugging Face causal LM
    max_context: int = Field(ge=16)  # tokens of prompt and completion together
    dtype: Literal["float32", "bfloat16"]
    system_prompt: str | None = None
    chat_template: str | None = None  # Jinja; null takes the tokenizer's own, or the plain one of docs/data.md
    stop_tokens: tuple[str, ...] = ()  # beside the tokenizer's end-of-sequence token


class SourceConfig(Section):
    """Where questions come from: the embedded world, or a table with named columns."""

    kind: Literal["world", "table"]
    path: str | None = None  # table: file or folder (.parquet, .jsonl, .csv), or a dataset's hub id
    hub_files: str = "*.parquet"  # table by hub id: which files of the dataset repository
    question: str = "question"  # column; dots and numbers descend into structures: prompt.0.content
    answer: str = "answer"
    answer_pattern: str | None = None  # regular expression whose first group is the answer within the answer column
    answer_in_box: bool = False  # the answer is the last \\boxed{} of the answer column (MATH's solutions)
    tolerance: str | None = None  # column of a numeric tolerance (OlympiadBench's `error`)
    where: dict[str, str | int | bool] = {}  # keep only rows whose columns have these values
    strip_prefix: str = ""  # cut from the question where present
    strip_suffix: str = ""
    deduplicate: bool = True  # by question text
    limit: int | None = Field(None, ge=1)
    split: Literal["train", "heldout"] = "train"  # world
    count: int = Field(2000, ge=1)  # world: how many questions
    phrasings: tuple[int, ...] = (0, 1)  # world: which of the three phrasings
    seed: int = 0  # world


class DataConfig(Section):
    train: SourceConfig
    prompt: str = "{{ question }}"  # Jinja: the user message made of a question
    max_prompt_tokens: int | None = Field(None, ge=1)  # longer questions are dropped and counted; null: what fits


class RewardConfig(Section):
    extract: tuple[Literal["boxed", "final_answer_is", "hashes", "choice_letter"], ...] = (
        "boxed",
    )  # first that finds one
    function: str | None = (
        None  # package.module:function, a custom reward (docs/rewards.md); null: the built-in verifier
    )
    max_failure_rate: float = Field(0.2, gt=0.0, le=1.0)  # of timeout and error, above which the run stops


class RolloutConfig(Section):
    prompts_per_step: int = Field(ge=1)
    group_size: int = Field(ge=1)
    temperature: float = Field(1.0, ge=0.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    max_tokens: int = Field(ge=1)


class KlConfig(Section):
    """KL penalty against the initial policy, the reference; its model is loaded only with a coefficient above 0."""

    coefficient: float = Field(0.0, ge=0.0)
    estimator: KlEstimator = "k3"
    where: Literal["loss", "reward", "return"] = "loss"  # return: each token's, after the group's baseline


class RftConfig(Section):
    """Rejection-sampling fine-tuning (`algorithm.advantage=correct_only`)."""

    weighting: Literal["trajectory", "question"] = "trajectory"  # every correct one alike, or every solved question
    deduplicate: bool = True  # of equal completions of a question, keep one


class DynamicSamplingConfig(Section):
    """Ask on until the batch holds `rollout.prompts_per_step` groups with signal (DAPO)."""

    enabled: bool = False
    max_factor: float = Field(3.0, ge=1.0)  # at most this many times `rollout.prompts_per_step` questions a step


class AlgorithmConfig(Section):
    """See docs/algorithms.md for formulas and for who uses what."""

    name: str = Field("grpo", pattern=r"^[\w+-]{1,40}$")  # what it is called; the keys below say what it is
    advantage: Literal[
        "group_standardised",
        "group_centred",
        "leave_one_out",
        "batch_whitened",
        "group_centred_batch_whitened",
        "correct_only",
    ] = "group_standardised"
    advantage_eps: float = Field(1e-6, ge=0.0)
    surrogate: Surrogate = "clipped"
    aggregation: Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "dr_grpo"] = "seq_mean_token_mean"
    clip_low: float = Field(0.2, ge=0.0, le=1.0)
    clip_high: float = Field(0.2, ge=0.0)
    dual_clip: float | None = Field(None, gt=1.0)  # bound on what a negative advantage can cost, times it
    log_ratio_clamp: float | None = Field(None, gt=0.0)
    importance_cap: float | None = Field(None, gt=0.0)  # truncated importance sampling; null is off
    importance_level: Literal["token", "sequence"] = "token"
    importance_mode: Literal["truncate", "mask"] = "truncate"  # what happens above the cap
    kl: KlConfig = KlConfig()
    entropy_coefficient: float = 0.0  # bonus; negative is a penalty
    incorrect_reward: float = Field(0.0, lt=1.0)  # of a wrong answer; a correct one has 1
    overlong_zone: float | None = Field(None, gt=0.0, le=1.0)  # last share of rollout.max_tokens with a length penalty
    overlong_penalty: float = Field(1.0, ge=0.0)  # its size at the end of the zone
    mask_truncated: bool = False  # leave trajectories that hit max_tokens out of the update
    dynamic_sampling: DynamicSamplingConfig = DynamicSamplingConfig()
    rft: RftConfig = RftConfig()
    minibatches: int = Field(1, ge=1)  # optimizer steps per pass over a batch
    epochs: int = Field(1, ge=1)  # passes over a batch
    lr: float = Field(ge=0.0)
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0.0)
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = Field(1.0, gt=0.0)


class MemoryConfig(Section):
    """A bounded replay buffer of past meta-experiences (beyond the paper)."""

    size: int = Field(0, ge=0)  # 0 is off
    per_step: int = Field(8, ge=1)
    max_age: int = Field(20, ge=1)  # steps
    weight: float = Field(1.0, gt=0.0)  # of the past ones against this step's


class ReptileConfig(Section):
    """Every `every` steps, weights = slow + `rate` (weights - slow), which become the new slow ones (beyond the
    paper)."""

    every: int = Field(0, ge=0)  # 0 is off
    rate: float = Field(0.5, gt=0.0, le=1.0)


class MelConfig(Section):
    enabled: bool = True
    weight: float = Field(1.0, ge=0.0)  # of J_MEL (Eq. 9; paper: 1)
    weight_schedule: Literal["constant", "linear", "cosine"] = "constant"
    weight_warmup_steps: int = Field(0, ge=0)
    pairs_per_group: int = Field(1, ge=1)
    pair_choice: Literal["random", "shortest_correct_longest_common_prefix", "hardest"] = "random"
    replays: int = Field(1, ge=1)
    min_correct_replays: int = Field(1, ge=1)
    normalisation: Literal["experience", "question"] = (
        "experience"  # NLL averaged over M* (Eq. 7), or per question first
    )
    sections: Literal["all", "heuristics"] = "all"  # which tokens of M* are trained
    context: Literal["retrospective", "question"] = "retrospective"  # C_retro (Eq. 7), or the bare question
    target: Literal["experience", "replay"] = "experience"  # M*, or the replay that proved it (context distillation)
    combination: Literal["joint", "balanced", "separate"] = "joint"  # Eq. 9; the others are beyond the paper
    balance: float = Field(0.3, gt=0.0)  # balanced: norm of the meta-experience gradient over the policy gradient's
    memory: MemoryConfig = MemoryConfig()
    reptile: ReptileConfig = ReptileConfig()
    max_tokens: int = Field(ge=1)  # of a meta-experience
    replay_max_tokens: int = Field(ge=1)
    temperature: float = Field(1.0, ge=0.0)
    template: MelTemplate


class RolloutPoolConfig(Section):
    engines: int = Field(ge=1)
    tensor_parallel: int = Field(1, ge=1)
    cpus: float = Field(1.0, gt=0.0)  # Ray CPUs per engine actor
    threads: int = Field(1, ge=1)  # CPU threads per engine
    in_process: bool = False  # step the engine inside its actor instead of in a process of its own
    max_sequences: int = Field(256, ge=1)
    memory_share: float = Field(0.85, gt=0.0, le=1.0)  # of a GPU
    kv_cache_mib: int = Field(128, ge=16)  # on CPU


class ExperiencePoolConfig(Section):
    engines: int = Field(0, ge=0)  # 0 borrows the rollout pool's
    actors: int = Field(1, ge=1)
    cpus: float = Field(1.0, gt=0.0)


class VerifierPoolConfig(Section):
    actors: int = Field(1, ge=1)
    cpus: float = Field(1.0, gt=0.0)
    deadline: float = Field(5.0, gt=0.0)  # seconds per judgement


class PolicyPoolConfig(Section):
    ranks: int = Field(ge=1)
    cpus: float = Field(1.0, gt=0.0)
    threads: int = Field(1, ge=1)
    token_budget: int = Field(ge=16)  # rows * longest row of a microbatch
    gradient_checkpointing: bool = False
    logprob_chunk: int = Field(1024, ge=1)  # positions whose logits exist at once
    attention: str = "sdpa"


class DeadlineConfig(Section):
    """Seconds after which waiting is an error."""

    start: float = Field(600.0, gt=0.0)
    generate: float = Field(1800.0, gt=0.0)
    judge: float = Field(600.0, gt=0.0)
    train: float = Field(3600.0, gt=0.0)
    publish: float = Field(600.0, gt=0.0)
    checkpoint: float = Field(1800.0, gt=0.0)


class ClusterConfig(Section):
    device: Literal["cpu", "cuda"]
    nodes: int = Field(1, ge=1)
    gpus_per_node: int = Field(0, ge=0)
    weight_transfer: Literal["auto", "shm", "gloo", "nccl"] = "auto"
    rollout: RolloutPoolConfig
    experience: ExperiencePoolConfig
    verifier: VerifierPoolConfig
    policy: PolicyPoolConfig
    deadlines: DeadlineConfig = DeadlineConfig()


class BenchmarkConfig(Section):
    name: str
    source: SourceConfig


class EvalConfig(Section):
    every: int = Field(0, ge=0)  # steps; 0 evaluates only before and after
    before: bool = True
    after: bool = True
    benchmarks: tuple[BenchmarkConfig, ...] = ()
    samples: int = Field(8, ge=0)  # n of Avg@n and Pass@k; 0 leaves them out
    pass_k: tuple[int, ...] = ()  # the k of Pass@k, each at most `samples`; empty is k = samples
    temperature: float = Field(0.6, gt=0.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    max_tokens: int = Field(ge=1)

    @property
    def ks(self) -> tuple[int, ...]:
        return self.pass_k or ((self.samples,) if self.samples else ())


class CheckpointConfig(Section):
    every: int = Field(0, ge=0)  # steps; 0 writes only the last
    keep: int = Field(2, ge=1)


class ObserveConfig(Section):
    wandb: Literal["off", "auto", "online", "offline"] = "off"  # auto: online with a key, else offline
    wandb_project: str = "mel_ray"
    trajectories: float = Field(0.05, ge=0.0, le=1.0)  # share of the questions whose trajectories are kept
    console: Literal["auto", "plain"] = "auto"
    gradient_split_every: int = Field(0, ge=0)  # steps; norms and cosine of the two terms' gradients; 0 is never


class Config(Section):
    run: RunConfig
    model: ModelConfig
    data: DataConfig
    reward: RewardConfig = RewardConfig()
    rollout: RolloutConfig
    algorithm: AlgorithmConfig
    mel: MelConfig
    cluster: ClusterConfig
    eval: EvalConfig
    checkpoint: CheckpointConfig = CheckpointConfig()
    observe: ObserveConfig = ObserveConfig()

    @property
    def prompt_limit(self) -> int:
        """Longest prompt in tokens: `data.max_prompt_tokens`, or what leaves room for every kind of completion."""
        if self.data.max_prompt_tokens is not None:
            return self.data.max_prompt_tokens
        completions = [self.rollout.max_tokens, self.eval.max_tokens]
        if self.mel.enabled:
            completions.append(self.mel.max_tokens + 1)
        return self.model.max_context - max(completions)
