"""The configuration: every key with its type, its default and the sentence that `mel keys` prints.

Defaults stand here alone, and in `learning` and `cluster`, the two sections too long for this file. They are those of
the embedded default, a tiny model on two CPU cores; a file in `conf/` holds what differs.
"""

from typing import Annotated, Literal

from pydantic import Field

from mel_ray.config.cluster import ClusterConfig
from mel_ray.config.learning import AlgorithmConfig, MelConfig
from mel_ray.config.section import NameIn, Section, extraction_rules

ExtractionRule = Annotated[str, NameIn("extraction rule", extraction_rules)]


class RunConfig(Section):
    """The run, and the folder it is kept in."""

    name: str | None = Field(None, coerce_numbers_to_str=True)
    """Name of the run's folder below run.dir; null makes up a fresh one."""
    dir: str = "runs"
    """Folder that holds all run folders."""
    seed: int = Field(0, ge=0)
    """Seed of everything random: order of questions, sampling, choice of pairs."""
    steps: int = Field(40, ge=1)
    """Number of training steps."""
    resume: Literal["never", "auto"] = "never"
    """What to do if a run of this name exists: refuse (never), or continue from its last checkpoint (auto)."""


class ModelConfig(Section):
    """The model to train."""

    path: str
    """Local folder or hub id of a Hugging Face causal LM; `embedded` is the tiny model that comes with mel_ray."""
    max_context: int = Field(512, ge=16)
    """Longest sequence in tokens, prompt and completion together."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of the weights in sampling and training."""
    system_prompt: str | None = None
    """System message of every prompt; null for none."""
    chat_template: str | None = None
    """Chat template in Jinja; null takes the tokenizer's own, or the plain one of docs/data.md."""
    stop_tokens: tuple[str, ...] = ()
    """Tokens that end a completion, in addition to the tokenizer's end-of-sequence token."""


class SourceConfig(Section):
    """Where questions come from: the embedded world, or a table with named columns."""

    kind: Literal["world", "table"] = "world"
    """Source of the questions: the embedded world, or files with named columns."""
    path: str | None = None
    """Table: file or folder (.parquet, .jsonl, .csv), or hub id of a dataset."""
    hub_files: str = "*.parquet"
    """Table on the hub: glob pattern of the files to read."""
    question: str = "question"
    """Table: column of the question; dots and numbers address nested fields, e.g. prompt.0.content."""
    answer: str = "answer"
    """Table: column of the correct answer."""
    answer_pattern: str | None = None
    """Table: regular expression whose first group is the answer; null takes the whole column."""
    answer_in_box: bool = False
    r"""Table: the answer is the last \boxed{} of its column."""
    tolerance: str | None = None
    """Table: column of a numeric tolerance of the answer; null for exact answers."""
    where: dict[str, str | int | bool] = Field(default_factory=dict)
    """Table: keep only rows whose columns have these values."""
    strip_prefix: str = ""
    """Table: text to remove from the start of questions that begin with it."""
    strip_suffix: str = ""
    """Table: text to remove from the end of questions that end with it."""
    deduplicate: bool = True
    """Keep one of several questions with the same text."""
    limit: int | None = Field(None, ge=1)
    """Number of questions to use, from the first; null uses all."""
    split: Literal["train", "heldout"] = "train"
    """World: training problems or held-out ones."""
    count: int = Field(2000, ge=1)
    """World: number of questions."""
    phrasings: tuple[int, ...] = (0, 1)
    """World: which of the three phrasings to use, counted from 0."""
    seed: int = 0
    """World: seed of the questions."""


class DataConfig(Section):
    """Training questions and the prompt made from them."""

    train: SourceConfig = SourceConfig()
    prompt: str = "Problem: {{ question }}"
    """User message in Jinja, made from a question."""
    max_prompt_tokens: int | None = Field(None, ge=1)
    """Longest prompt in tokens; longer ones are dropped and counted. null allows what leaves room for a completion."""


class RewardConfig(Section):
    """How answers are found and judged."""

    extract: tuple[ExtractionRule, ...] = ("boxed",)
    """Rules that look for the answer in a response; the first that finds one counts."""
    function: str | None = None
    """Your own reward as package.module:function (docs/rewards.md); null uses the built-in verifier."""
    max_failure_rate: float = Field(0.2, gt=0.0, le=1.0)
    """Share of judgements that may end in a timeout or an error before the run stops."""


class RolloutConfig(Section):
    """Sampling for training."""

    prompts_per_step: int = Field(16, ge=1)
    """Questions per training step."""
    group_size: int = Field(8, ge=1)
    """Trajectories per question."""
    temperature: float = Field(1.0, ge=0.0)
    """Sampling temperature."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Nucleus sampling threshold; training supports only 1."""
    max_tokens: int = Field(96, ge=1)
    """Longest completion, in tokens."""


class BenchmarkConfig(Section):
    """A benchmark; a bare name stands for a file in conf/benchmark/."""

    name: str
    """Name in metrics and files."""
    source: SourceConfig


class EvalConfig(Section):
    """Evaluation on benchmarks: Pass@1 greedy, Avg@n and Pass@k sampled."""

    every: int = Field(0, ge=0)
    """Training steps between evaluations; 0 evaluates only before and after training."""
    before: bool = True
    """Evaluate the initial policy."""
    after: bool = True
    """Evaluate the final policy."""
    benchmarks: tuple[BenchmarkConfig, ...] = ()
    """Names in conf/benchmark/, or entries with a name and a source."""
    samples: int = Field(8, ge=0)
    """Sampled answers per question, n of Avg@n and Pass@k; 0 leaves both out."""
    pass_k: tuple[int, ...] = ()
    """The k of Pass@k, each from 2 to eval.samples; empty means k = eval.samples."""
    temperature: float = Field(0.6, gt=0.0)
    """Temperature of sampled answers."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Nucleus sampling threshold of sampled answers."""
    max_tokens: int = Field(96, ge=1)
    """Longest answer, in tokens; conf/ makes it follow rollout.max_tokens."""

    @property
    def ks(self) -> tuple[int, ...]:
        return self.pass_k or ((self.samples,) if self.samples else ())


class CheckpointConfig(Section):
    """Checkpoints, from which an interrupted run continues."""

    every: int = Field(10, ge=0)
    """Training steps between checkpoints; 0 writes only the last."""
    keep: int = Field(2, ge=1)
    """Number of checkpoints to keep; older ones are deleted."""


class ObserveConfig(Section):
    """What a run shows and records."""

    wandb: Literal["off", "auto", "online", "offline"] = "off"
    """Weights & Biases; auto is online where there is a key, else offline."""
    wandb_project: str = "mel_ray"
    """Project in Weights & Biases."""
    trajectories: float = Field(0.05, ge=0.0, le=1.0)
    """Share of the questions whose trajectories are stored."""
    console: Literal["auto", "plain"] = "auto"
    """Live display in a terminal (auto), or plain lines."""
    gradient_split_every: int = Field(0, ge=0)
    """Training steps between measurements of the two objectives' gradients (norms and cosine); 0 is off."""


class Config(Section):
    """The whole configuration."""

    run: RunConfig = RunConfig()
    model: ModelConfig
    data: DataConfig = DataConfig()
    reward: RewardConfig = RewardConfig()
    rollout: RolloutConfig = RolloutConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    mel: MelConfig
    cluster: ClusterConfig = ClusterConfig()
    eval: EvalConfig = EvalConfig()
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
