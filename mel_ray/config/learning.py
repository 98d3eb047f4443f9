"""What is learned and how: the keys of `algorithm` (formulas in docs/algorithms.md) and of `mel`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mel_ray.config.section import MustBe, NameIn, Section, aggregations, algorithms, pair_choices
from mel_ray.config.templates import MelTemplate
from mel_ray.records.step import Denominator, GuidedCorrection, KlEstimator, Surrogate

Advantage = Annotated[str, NameIn("advantage estimator", algorithms)]
Aggregation = Annotated[str, NameIn("aggregation", aggregations)]
PairChoice = Annotated[str, NameIn("choice of pairs", pair_choices)]
Schedule = Literal["constant", "linear", "cosine"]


class KlConfig(Section):
    """KL penalty against the initial policy, the reference."""

    coefficient: float = Field(0.0, ge=0.0)
    """Size of the penalty; 0 is off and loads no reference model."""
    estimator: KlEstimator = "k3"
    """k1 = d, k2 = d^2 / 2 or k3 = exp(-d) - 1 + d, where d = logp - logp_reference."""
    where: Literal["loss", "reward", "return"] = "loss"
    """Part of the loss, of a trajectory's reward (before the comparison) or of each token's return (after it)."""


class RftConfig(Section):
    """Rejection-sampling fine-tuning; used with `algorithm.advantage=correct_only`."""

    weighting: Literal["trajectory", "question"] = "trajectory"
    """Give equal weight to every correct trajectory, or to every solved question."""
    deduplicate: bool = True
    """Train only one of several identical completions of a question."""


class DynamicSamplingConfig(Section):
    """Sampling more questions in place of groups without signal (DAPO)."""

    enabled: bool = False
    """Keep sampling questions until rollout.prompts_per_step of them have both correct and incorrect answers."""
    max_factor: float = Field(3.0, ge=1.0)
    """Limit on the questions sampled in one step, as a multiple of rollout.prompts_per_step."""


class AlgorithmConfig(Section):
    """The policy objective and its optimizer; docs/algorithms.md has the formulas."""

    name: str = Field("grpo", pattern=r"^[\w+-]{1,40}$")
    """Label in reports and run names; the other keys say what the algorithm does."""
    samples: Literal["policy", "dataset"] = "policy"
    """Whose trajectories are trained on: the policy's, or the dataset's solutions (supervised fine-tuning)."""
    advantage: Advantage = "group_standardised"
    """How rewards become advantages."""
    advantage_eps: float = Field(1e-6, ge=0.0)
    """Added to the standard deviation before advantages are divided by it."""
    surrogate: Surrogate = "clipped"
    """Objective of each token."""
    aggregation: Aggregation = "seq_mean_token_mean"
    """How token losses are averaged over a mini-batch."""
    clip_low: float = Field(0.2, ge=0.0, le=1.0)
    """Lower clipping bound of the ratio: 1 - clip_low."""
    clip_high: float = Field(0.2, ge=0.0)
    """Upper clipping bound of the ratio: 1 + clip_high."""
    dual_clip: float | None = Field(None, gt=1.0)
    """Dual clip c: with a negative advantage A, the objective is at least c A; null is off."""
    log_ratio_clamp: float | None = Field(None, gt=0.0)
    """Bound on the absolute log ratio; tokens beyond it have no gradient. null is off."""
    denominator: Denominator = "proximal"
    """Denominator of the ratio: the policy before the update, or the logprobs with which the tokens were sampled."""
    importance_cap: float | None = Field(None, gt=0.0)
    """Cap on the importance weight pi_trainer / pi_engine; null uses no importance weights."""
    importance_floor: float | None = Field(None, gt=0.0)
    """Lower bound of the importance weight, in addition to the cap; null leaves it open."""
    importance_level: Literal["token", "sequence"] = "token"
    """Whether an importance weight belongs to a token or to a whole sequence."""
    importance_mode: Literal["truncate", "mask"] = "truncate"
    """What happens to importance weights outside the cap and the floor: moved to the bound, or set to zero."""
    kl: KlConfig = KlConfig()
    entropy_coefficient: float = 0.0
    """Size of the entropy bonus; a negative value penalises entropy."""
    incorrect_reward: float = Field(0.0, lt=1.0)
    """Reward of a wrong answer; a correct one gets 1."""
    overlong_zone: float | None = Field(None, gt=0.0, le=1.0)
    """Last fraction of rollout.max_tokens, over which a length penalty grows linearly; null is off."""
    overlong_penalty: float = Field(1.0, ge=0.0)
    """Length penalty at the end of the overlong zone."""
    mask_truncated: bool = False
    """Leave trajectories that were cut off at rollout.max_tokens out of the update."""
    dynamic_sampling: DynamicSamplingConfig = DynamicSamplingConfig()
    rft: RftConfig = RftConfig()
    minibatches: int = Field(1, ge=1)
    """Optimizer steps per pass over a batch."""
    epochs: int = Field(1, ge=1)
    """Passes over a batch."""
    lr: float = Field(1e-6, ge=0.0)
    """Learning rate at the end of the warm-up."""
    lr_schedule: Schedule = "constant"
    """Whether the learning rate stays constant, or decays to zero over the run."""
    warmup_steps: int = Field(0, ge=0)
    """Training steps over which the learning rate rises linearly."""
    weight_decay: float = Field(0.0, ge=0.0)
    """Weight decay of AdamW."""
    betas: Annotated[tuple[float, float], MustBe("two numbers, as in [0.9,0.95]")] = (0.9, 0.95)
    """Decay rates of AdamW's two moments."""
    max_grad_norm: float = Field(1.0, gt=0.0)
    """Gradients with a larger global norm are scaled down to it."""
    skip_grad_norm: float | None = Field(None, gt=0.0)
    """An update whose gradient has a larger global norm is skipped; null skips only those that are not finite."""
    max_skipped: int = Field(5, ge=1)
    """Training steps in a row with a skipped update after which the run stops."""


class MemoryConfig(Section):
    """Replay buffer of past meta-experiences (beyond the paper)."""

    size: int = Field(0, ge=0)
    """Number of past meta-experiences to keep; 0 is off."""
    per_step: int = Field(8, ge=1)
    """Largest number of past meta-experiences added to a training step."""
    max_age: int = Field(20, ge=1)
    """Training steps after which a meta-experience is dropped."""
    weight: float = Field(1.0, gt=0.0)
    """Weight of past meta-experiences, relative to those of the current step."""


class ReptileConfig(Section):
    """Interpolation with slow weights: theta = slow + rate (theta - slow), then slow = theta (beyond the paper)."""

    every: int = Field(0, ge=0)
    """Training steps between interpolations; 0 is off."""
    rate: float = Field(0.5, gt=0.0, le=1.0)
    """Fraction of the way from the slow weights to the current ones."""


class RetrievalConfig(Section):
    """Lessons that travel (beyond the paper): for an all-wrong group, the best lesson of another question is replayed;
    if it passes, it serves as the question's own would."""

    method: Literal["none", "bm25", "embedding"] = "none"
    """How a lesson is found: by words (bm25), by an embedding model, or not at all."""
    size: int = Field(400, ge=1)
    """Number of lessons to choose from, the latest."""
    min_score: float = Field(0.0, ge=0.0)
    """How much alike a lesson and a question have to be, on the method's scale."""
    model: str | None = None
    """With embedding: folder or hub id of an encoder, whose mean hidden states are compared."""


class HintConfig(Section):
    """With mel.credit=hint: what a lesson adds to the credit of each token of its question's attempts."""

    weight: float = Field(1.0, gt=0.0)
    """Largest credit that a lesson gives a token: weight * tanh(difference of logprobs / width)."""
    width: float = Field(1.0, gt=0.0)
    """Difference of logprobs, in nats, at which the credit levels off."""
    sign: Literal["free", "verdict"] = "free"
    """Whether a token's credit may have any sign, or only that of the attempt's verdict."""
    schedule: Schedule = "constant"
    """Whether the weight stays constant, or decays to zero over the run."""


def _one_or_several(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


class MelConfig(Section):
    """Meta-Experience Learning (arXiv 2602.10224), in addition to the algorithm's own objective."""

    enabled: bool = True
    """Write, test and internalise meta-experiences; false leaves the algorithm alone."""
    weight: float = Field(1.0, ge=0.0)
    """Weight of the meta-experience objective J_MEL (Eq. 9; 1 in the paper)."""
    weight_schedule: Schedule = "constant"
    """Whether the weight stays constant, or decays to zero over the run."""
    weight_warmup_steps: int = Field(0, ge=0)
    """Training steps over which the weight rises linearly."""
    pairs_per_group: int = Field(1, ge=1)
    """Largest number of pairs (one correct, one incorrect trajectory) to contrast in a mixed group."""
    pair_choice: PairChoice = "random"
    """Which pairs of a mixed group to contrast."""
    replays: int = Field(1, ge=1)
    """Attempts to solve the question with a new meta-experience in the prompt."""
    min_correct_replays: int = Field(1, ge=1)
    """Correct replays that a meta-experience needs to be kept (Eq. 6)."""
    write: Literal["mixed", "wrong", "both"] = "mixed"
    """Groups that get meta-experiences: mixed ones (the paper), all-wrong ones, whose writer is shown the reference
    answer in place of a correct solution, or both (docs/meta_experience.md)."""
    keep: Literal["replay", "gain"] = "replay"
    """Keep what passes its replay (Eq. 6), or what also gains by it: the replays' success rate minus that of the
    question's own attempts has to exceed min_gain, and the lesson counts by it (beyond the paper)."""
    min_gain: float = Field(0.0, ge=0.0, lt=1.0)
    """With keep=gain: gain that a meta-experience has to exceed."""
    credit: Annotated[
        tuple[Literal["augment", "hint"], ...],
        BeforeValidator(_one_or_several),
        MustBe("augment, hint, or a list of both"),
    ] = ()
    """What lessons do in addition to the NLL (beyond the paper): with augment their replays join the question's group
    and are trained on the bare question; with hint the change of each token's logprob under the lesson joins its
    advantage."""
    hint: HintConfig = HintConfig()
    contrast: Literal["none", "wrong_lesson"] = "none"
    """With credit=hint: subtract the same under a lesson of the question that failed its replay, where there is one."""
    correction: GuidedCorrection = "none"
    """With credit=augment: weight of a replay's token: 1, the ratio of the bare policy to the one with the lesson in
    its prompt, or that ratio up to correction_cap."""
    correction_cap: float = Field(2.0, gt=0.0)
    """With correction=capped: largest weight of a replay's token."""
    lesson: Literal["own", "shuffled", "irrelevant", "reference"] = "own"
    """What a replay is shown: the meta-experience, or as a control that of another question of an earlier step, a text
    without use, or the reference answer."""
    retrieval: RetrievalConfig = RetrievalConfig()
    normalisation: Literal["experience", "question"] = "experience"
    """Average the NLL over all meta-experiences (Eq. 7), or over each question's and then over the questions."""
    sections: Literal["all", "heuristics"] = "all"
    """Which sections of a meta-experience are trained."""
    context: Literal["retrospective", "question"] = "retrospective"
    """What a trained meta-experience is conditioned on: the retrospective prompt (Eq. 7), or the question alone."""
    target: Literal["experience", "replay"] = "experience"
    """What is trained: the meta-experience, or the replay that proved it (context distillation, beyond the paper)."""
    combination: Literal["joint", "balanced", "separate"] = "joint"
    """One joint loss (Eq. 9), or balanced gradients or separate optimizer steps (both beyond the paper)."""
    balance: float = Field(0.3, gt=0.0)
    """With combination=balanced: norm of the meta-experience gradient, as a fraction of the policy gradient's."""
    memory: MemoryConfig = MemoryConfig()
    reptile: ReptileConfig = ReptileConfig()
    max_tokens: int = Field(72, ge=1)
    """Longest meta-experience, in tokens."""
    replay_max_tokens: int = Field(96, ge=1)
    """Longest completion of a replay, in tokens; conf/ makes it follow rollout.max_tokens."""
    temperature: float = Field(1.0, ge=0.0)
    """Sampling temperature of meta-experiences and replays; must equal rollout.temperature."""
    template: MelTemplate
