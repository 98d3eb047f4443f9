"""The configuration: every key with its type, its default and the sentence that `mel keys` prints.

Defaults stand here alone, and in `learning` and `cluster`, the two sections too long for this file. They are those of
the embedded default, a tiny model on two CPU cores; a file in `conf/` holds what differs.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from mel_ray.config.cluster import ClusterConfig
from mel_ray.config.driving import DriverConfig
from mel_ray.config.learning import AlgorithmConfig, MelConfig
from mel_ray.config.names import entry_key
from mel_ray.config.section import MustBe, NameIn, Section, extraction_rules

ExtractionRule = Annotated[str, NameIn("extraction rule", extraction_rules)]
Name = Annotated[str, Field(coerce_numbers_to_str=True)]
Value = Annotated[str | int | float | bool | None, MustBe("text, a number, true, false or null")]
Allowed = Annotated[Value | tuple[Value, ...], MustBe("a value or a list of values")]


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
    resume: Literal["never", "auto", "force"] = "never"
    """What to do if a run of this name exists: refuse (never), continue from its last checkpoint (auto), or continue
    even if its model, data or seed has changed (force)."""
    replay_order: str | None = None
    """Run (a name in run.dir, or a folder) whose order of arrival is repeated, so that its curve comes out again."""


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
    """Chat template in Jinja, or a template's name in the model; null takes the model's default (docs/data.md)."""
    template_arguments: dict[Name, Value] = Field(default_factory=dict)
    """Arguments of the chat template, e.g. {enable_thinking: false} for Qwen3."""
    stop_tokens: tuple[str, ...] = ()
    """Tokens that end a completion, in addition to the tokenizer's end-of-sequence token."""


class SourceConfig(Section):
    """Where questions come from: an embedded world, or a table with named columns."""

    kind: Literal["world", "rules", "table"] = "world"
    """Source of the questions: the embedded world, the world of many rules (docs/rules_world.md), or files."""
    path: str | None = None
    """Table: file or folder (.parquet, .jsonl, .json, .csv, also with .gz or .zst), or hub id of a dataset."""
    hub_files: str = "*.parquet"
    """Table on the hub: glob pattern of the files to read."""
    question: str = "question"
    """Table: column of the question, as text or as messages (dots and numbers address nested fields, as in
    prompt.0.content), or a Jinja template over the row, as in "{{ Body }} {{ Question }}"."""
    answer: str = "answer"
    """Table: column of the correct answer, or a Jinja template over the row."""
    solution: str | None = None
    """Table: column of a worked solution, or a Jinja template over the row; for algorithm=sft. null for none."""
    answers: Literal["all", "any"] = "all"
    """Table: what a list of answers asks for: all of them as one list, or any one of them."""
    answer_pattern: str | None = None
    """Table: regular expression whose first group is the answer; null takes the whole column."""
    answer_in_box: bool = False
    r"""Table: the answer stands in the \boxed{} of its column's final statement; several boxes there are a list."""
    tolerance: str | None = None
    """Table: column of a numeric tolerance of the answer; null for exact answers."""
    options: str | None = None
    """Table: column of a multiple-choice question's options; null where there are none."""
    where: dict[Name, Allowed] = Field(default_factory=dict)
    """Table: keep only rows whose columns have these values, or one of a list of values."""
    strip_prefix: str = ""
    """Table: text to remove from the start of questions that begin with it."""
    strip_suffix: str = ""
    """Table: text to remove from the end of questions that end with it."""
    deduplicate: bool = True
    """Keep one of several questions with the same text and the same answer."""
    conflicts: Literal["drop", "keep", "error"] = "drop"
    """What to do with a question that stands there with different answers: drop it, keep it with each, or stop."""
    skip: int = Field(0, ge=0)
    """Number of questions to leave out, from the first."""
    limit: int | None = Field(None, ge=1)
    """Number of questions to use, from the first that is not skipped; null uses all."""
    split: Literal["train", "heldout", "unasked"] = "train"
    """World: training problems or held-out ones; of the world of rules also problems whose rule training never asks."""
    count: int = Field(2000, ge=1)
    """World: number of questions."""
    rules: int = Field(96, ge=1, le=3000)
    """World of rules: number of rules that training asks; a quarter as many more are never asked."""
    bands: tuple[Annotated[float, Field(ge=0.0, le=1.0)], ...] = Field((0.5, 0.1, 0.01), min_length=1)
    """World of rules: probabilities of the right act in the base model's corpus; the rules have them in turn."""
    band: float | None = None
    """World of rules: use the rules of this band alone; null uses all."""
    phrasings: tuple[int, ...] = (0, 1)
    """World: which of the three phrasings to use, counted from 0."""
    seed: int = 0
    """World: seed of the questions."""


class TrainSourceConfig(SourceConfig):
    """Where training questions come from: one source with these keys, or a list of sources, each with these keys."""

    name: str = Field("train", coerce_numbers_to_str=True)
    """Name in metrics and messages; each of several sources needs its own."""
    weight: float = Field(1.0, gt=0.0, allow_inf_nan=False)
    """Among several sources: how often questions are taken from this one, relative to the other weights."""
    prompt: str | None = None
    """User message in Jinja for the questions of this source; null takes data.prompt."""
    pass_rate: Annotated[tuple[float, float] | None, MustBe("[lowest,highest], as in [0.1,0.9]")] = None
    """Keep only questions with a pass rate in [lowest, highest], as measured by `mel pass-rate`; null keeps all."""
    pass_rate_file: str | None = None
    """File written by `mel pass-rate`, for pass_rate."""


def _source_or_sources(given: Any, _: Any) -> TrainSourceConfig | tuple[TrainSourceConfig, ...]:
    """One source or a list of them; an entry of a list that has a path and no kind is a table."""
    if not isinstance(given, list | tuple):
        return TrainSourceConfig.model_validate(given)
    if not given:
        raise PydanticCustomError("no_sources", "this list needs at least one source")
    entries = [{"kind": "table", **one} if isinstance(one, dict) and "path" in one else one for one in given]
    return TypeAdapter(tuple[TrainSourceConfig, ...]).validate_python(entries)


class DataConfig(Section):
    """Training questions and the prompt made from them."""

    train: Annotated[TrainSourceConfig | tuple[TrainSourceConfig, ...], WrapValidator(_source_or_sources)] = (
        TrainSourceConfig()
    )
    prompt: str = "Problem: {{ question }}"
    """User message in Jinja, made from a question."""
    max_prompt_tokens: int | None = Field(None, ge=1)
    """Longest prompt in tokens; longer ones are dropped and counted. null allows what leaves room for a completion."""

    @property
    def sources(self) -> tuple[TrainSourceConfig, ...]:
        return self.train if isinstance(self.train, tuple) else (self.train,)

    def source_key(self, source: TrainSourceConfig) -> str:
        """How problems name a training source."""
        if not isinstance(self.train, tuple):
            return "data.train"
        return entry_key("data.train", source.name if "name" in source.model_fields_set else self.train.index(source))


class RewardPart(Section):
    """One part of the reward; a bare number stands for its weight."""

    weight: float = Field(1.0, allow_inf_nan=True)
    """Factor of the part's value in the reward."""
    function: str | None = None
    """Your own part as package.module:function; null is the built-in part of this name, or that of reward.function."""
    pattern: str | None = None
    """Regular expression; the part is 1 for a response in which it is found, else 0."""

    @model_validator(mode="before")
    @classmethod
    def _with_weight(cls, given: Any) -> Any:
        if isinstance(given, dict | RewardPart):
            return given
        if isinstance(given, int | float) and not isinstance(given, bool):
            return {"weight": given}
        raise PydanticCustomError("reward_part", "a part is its weight, or a mapping with weight, function or pattern")


class RewardConfig(Section):
    """How answers are found, judged and rewarded."""

    extract: tuple[ExtractionRule, ...] = ("boxed",)
    """Rules that look for the answer in a response; the first that finds one counts."""
    function: str | None = None
    """Your own reward as package.module:function (docs/rewards.md); null uses the built-in verifier."""
    parts: dict[Name, RewardPart] = Field(default_factory=dict)
    """Weights of named parts whose sum is the reward, as in {correct: 1, format: 0.2}; empty rewards correctness."""
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
    partial: bool = False
    """Close a batch when enough questions are done; sequences still running go on under the next weights."""
    oversample: float = Field(0.5, gt=0.0)
    """With partial: questions under way beyond prompts_per_step, as a fraction of it."""
    resample: Literal["none", "mixed", "wrong", "both"] = "none"
    """Groups of which more trajectories are sampled, which join the group: the control for what lessons cost."""
    resample_size: int | None = Field(None, ge=1)
    """With resample: number of these trajectories; null is group_size."""


class BenchmarkSourceConfig(SourceConfig):
    """The questions of a benchmark; all of them are asked unless it says otherwise."""

    deduplicate: bool = False
    """Keep one of several questions with the same text and the same answer."""
    conflicts: Literal["drop", "keep", "error"] = "keep"
    """What to do with a question that stands there with different answers: drop it, keep it with each, or stop."""


class BenchmarkConfig(Section):
    """A benchmark; a bare name stands for a file in conf/benchmark/, and name=path for a file of your own."""

    name: str = Field(coerce_numbers_to_str=True)
    """Name in metrics and files."""
    source: BenchmarkSourceConfig


class EvalConfig(Section):
    """Evaluation on benchmarks: Pass@1 greedy, Avg@n and Pass@k sampled."""

    every: int = Field(0, ge=0)
    """Training steps between evaluations; 0 evaluates only before and after training."""
    before: bool = True
    """Evaluate the initial policy."""
    after: bool = True
    """Evaluate the final policy."""
    benchmarks: tuple[BenchmarkConfig, ...] = ()
    """Names in conf/benchmark/, name=path for files of your own, or entries with a name and keys of a source."""
    decontaminate: Literal["report", "drop"] = "report"
    """What to do with training questions that overlap with a benchmark's: count them, or drop them."""
    max_overlap: float = Field(0.5, gt=0.0, le=1.0)
    """Overlap from which on a training question counts as contaminated, as a share of the benchmark's question."""
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
    every_minutes: float = Field(0.0, ge=0.0)
    """Minutes after which the next step is followed by a checkpoint, whatever `every` says; 0 is off."""
    keep_best: str | None = None
    """Keep the checkpoint with the highest score of an evaluation, too: <benchmark>/<score>, as in aime24/avg@8."""
    on_failure: Literal["go_on", "stop"] = "go_on"
    """When a checkpoint cannot be written, as on a full disk: train on and tell, or stop. The last one stays valid."""
    shadow: bool = False
    """Keep the state after every step in memory, too (Ray's object store): a lost policy goes on from there."""


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
    driver: DriverConfig = DriverConfig()
    mel: MelConfig
    cluster: ClusterConfig = ClusterConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    observe: ObserveConfig = ObserveConfig()

    @property
    def is_off_policy(self) -> bool:
        """Whether a sample may be older than the policy that trains on it."""
        return self.driver.capacity > 0 or self.rollout.partial

    @property
    def prompt_limit(self) -> int:
        """Longest prompt in tokens: `data.max_prompt_tokens`, or what leaves room for every kind of completion."""
        if self.data.max_prompt_tokens is not None:
            return self.data.max_prompt_tokens
        completions = [self.rollout.max_tokens, self.eval.max_tokens]
        if self.mel.enabled:
            completions.append(self.mel.max_tokens + 1)
        return self.model.max_context - max(completions)
