"""The arms of the embedded study: what is compared, and how each differs from the embedded default."""

from dataclasses import dataclass

STEPS = 40
OFF, ON = "mel.enabled=false", "mel.enabled=true"


@dataclass(frozen=True, slots=True)
class Arm:
    """`updates` counts optimizer steps per step of the run; where it is 2, half the run has as many updates as the
    others."""

    name: str
    overrides: tuple[str, ...]
    updates: int = 1

    @property
    def all_overrides(self) -> tuple[str, ...]:
        middle = STEPS // 2 if self.updates == 2 else 0
        return (f"run.steps={STEPS}", f"eval.every={middle}", *self.overrides)


ARMS = (
    Arm("GRPO", (OFF,)),
    Arm("GRPO + MEL", (ON,)),
    Arm("GRPO, two mini-batches", (OFF, "algorithm.minibatches=2"), updates=2),
    Arm("RFT", (OFF, "algorithm=rft")),
    Arm("RFT + ME", (ON, "algorithm=rft")),
    Arm("REINFORCE++", (OFF, "algorithm=reinforce_pp")),
    Arm("REINFORCE++ + ME", (ON, "algorithm=reinforce_pp")),
)

# A paradigm and the same with meta-experience: where their tuned rates differ, the first is measured at both.
PAIRS = (("GRPO", "GRPO + MEL"), ("RFT", "RFT + ME"), ("REINFORCE++", "REINFORCE++ + ME"))

# Variants of GRPO + MEL, at its learning rate.
ABLATIONS = (
    Arm("weight 1 (the paper's)", (ON, "mel.weight=1.0")),
    Arm("context: question", (ON, "mel.context=question")),
    Arm("heuristics only", (ON, "mel.sections=heuristics")),
    Arm("target: replay", (ON, "mel.target=replay")),
    Arm("target: replay, weight 1", (ON, "mel.target=replay", "mel.weight=1.0")),
    Arm("combination: balanced", (ON, "mel.combination=balanced")),
    Arm("combination: separate", (ON, "mel.combination=separate"), updates=2),
    Arm("memory of 64", (ON, "mel.memory.size=64")),
    Arm("Reptile every 5", (ON, "mel.reptile.every=5")),
)

# Where meta-experience might pay at this scale: (name, what changes for every arm). GRPO, GRPO + MEL and context
# distillation are compared in each, at the learning rate given.
REGIMES = (
    ("4 questions a step", ("rollout.prompts_per_step=4",)),
    ("groups of 4", ("rollout.group_size=4",)),
    ("200 questions, 4 a step", ("rollout.prompts_per_step=4", "data.train.count=200")),
)
REGIME_ARMS = (
    Arm("GRPO", (OFF,)),
    Arm("GRPO + MEL", (ON,)),
    Arm("GRPO + MEL, weight 1", (ON, "mel.weight=1.0")),
    Arm("GRPO + MEL, target: replay, weight 1", (ON, "mel.target=replay", "mel.weight=1.0")),
)
