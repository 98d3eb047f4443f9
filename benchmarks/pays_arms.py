"""The arms of the study of docs/meta_experience.md: what is compared, in the world of many rules.

The primary question was fixed before any run: at step 60, over five seeds, does augment with lessons for all-wrong
groups beat GRPO that samples the same groups again, at no fewer tokens?
"""

from dataclasses import dataclass, replace

STEPS, EVERY = 60, 5
BANDS = ("rules_hidden", "rules_rare", "rules_even")
BENCHMARKS = (*BANDS, "rules_unasked")
SHOWN = (20, 40, STEPS)  # steps at which all bands are evaluated; the hidden one is at every fifth
SELDOM = {"rules_rare": 20, "rules_even": 20, "rules_unasked": STEPS}
COMMON = (
    "experiment=rules", f"run.steps={STEPS}", f"eval.every={EVERY}", "cluster.rollout.compile=true",
    "rollout.prompts_per_step=16", "rollout.group_size=4", f"eval.benchmarks=[{','.join(BENCHMARKS)}]",
)  # fmt: skip


# The embedded world of 24 families, in which lessons can tell less (docs/embedded.md).
WORLD_STEPS, WORLD_BENCHMARK = 40, "world_heldout"
WORLD = (
    "experiment=embedded", f"run.steps={WORLD_STEPS}", "eval.every=20", "cluster.rollout.compile=true",
    "rollout.prompts_per_step=16", "rollout.group_size=4", f"eval.benchmarks=[{WORLD_BENCHMARK}]",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Arm:
    """With `memory`, evaluations have a kept lesson in the prompt."""

    name: str
    overrides: tuple[str, ...]
    memory: bool = False
    common: tuple[str, ...] = COMMON

    @property
    def all_overrides(self) -> tuple[str, ...]:
        return (*self.common, *self.overrides)


OFF = "mel.enabled=false"
GUIDED = ("mel.enabled=true", "mel.weight=0", "mel.write=both", "mel.credit=augment")
GAIN = ("mel.keep=gain", "mel.min_gain=0.25")

GRPO = Arm("GRPO", (OFF,))
RESAMPLED = Arm("GRPO, sampled again", (OFF, "rollout.resample=both", "rollout.resample_size=3"))
AUGMENT = Arm("augment", GUIDED)
SHUFFLED = Arm("augment, lessons of other rules", (*GUIDED, "mel.lesson=shuffled"))
IRRELEVANT = Arm("augment, an irrelevant text", (*GUIDED, "mel.lesson=irrelevant"))
REFERENCE = Arm("augment, the reference solution", (*GUIDED, "mel.lesson=reference"))
PRIMARY = (GRPO, RESAMPLED, AUGMENT, SHUFFLED, IRRELEVANT, REFERENCE)
CONTROLS = (RESAMPLED, SHUFFLED, IRRELEVANT)
# For arms that sample more than a draft and one replay for a group, or only for groups that are all wrong.
RESAMPLED_MORE = Arm("GRPO, sampled again, 6", (OFF, "rollout.resample=both", "rollout.resample_size=6"))
RESAMPLED_WRONG = Arm("GRPO, all-wrong sampled again, 6", (OFF, "rollout.resample=wrong", "rollout.resample_size=6"))

SECONDARY = (
    RESAMPLED_MORE,
    RESAMPLED_WRONG,
    Arm("augment, by gain", (*GUIDED, *GAIN)),
    Arm("augment, by gain, 4 replays", (*GUIDED, *GAIN, "mel.replays=4")),
    Arm("augment, ratio", (*GUIDED, "mel.correction=ratio")),
    Arm("augment, capped ratio", (*GUIDED, "mel.correction=capped")),
    Arm("augment, mixed groups alone", (*GUIDED, "mel.write=mixed")),
    Arm("augment, all-wrong groups alone", (*GUIDED, "mel.write=wrong")),
    Arm("augment, all-wrong groups alone, 4 replays", (*GUIDED, "mel.write=wrong", "mel.replays=4")),
    Arm("augment + NLL 0.1, by gain", (*GUIDED, *GAIN, "mel.weight=0.1")),
    Arm("NLL 0.1", ("mel.enabled=true", "mel.weight=0.1")),
    Arm("NLL 0.1, by gain", ("mel.enabled=true", "mel.weight=0.1", *GAIN)),
    Arm("hint", (*GUIDED, "mel.credit=hint")),
    Arm("hint, contrast", (*GUIDED, "mel.credit=hint", "mel.contrast=wrong_lesson", "mel.pairs_per_group=2")),
    Arm("augment + hint", (*GUIDED, "mel.credit=[augment,hint]")),
    # Lessons are written and not learned from: the policy is GRPO's.
    Arm("GRPO, lessons in the prompt", ("mel.enabled=true", "mel.weight=1e-9", "mel.write=both"), memory=True),
    Arm("travel", (*GUIDED, "mel.write=mixed", "mel.retrieval.method=bm25")),
)  # fmt: skip

WORLD_ARMS = tuple(replace(arm, name=f"{arm.name}, 24 families", common=WORLD) for arm in (GRPO, RESAMPLED, AUGMENT))
