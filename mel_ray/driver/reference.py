"""The KL of a step's trajectories to the reference, where advantages cannot be known without it.

Waits for one forward pass of the policy pool over all trajectories, before advantages can be known.
"""

from collections.abc import Sequence

from mel_ray.config.schema import Config
from mel_ray.records.ports import Policy
from mel_ray.records.exploration import Exploration
from mel_ray.records.sequence import SequenceKind, SequenceSpec
from mel_ray.policy.batch import shard
from mel_ray.policy.rows import Kl, is_whitened


async def reward_kl(explored: Sequence[Exploration], policy: Policy, config: Config) -> Kl | None:
    """(question, trajectory) -> its KL; None where no advantage depends on it."""
    kl = config.algorithm.kl
    is_needed = kl.where == "reward" or (kl.where == "return" and is_whitened(config.algorithm))
    if not (explored and kl.coefficient and is_needed):
        return None
    keys = {
        (one.group.ref, index): (question, index)
        for question, one in enumerate(explored)
        for index in range(len(one.group.facts.lengths))
    }
    shards = shard(_bare(explored), policy.ranks, config.cluster.policy.token_budget)
    found = await policy.divergence(shards, kl.estimator)
    return {
        keys[spec.ref, spec.index]: fact
        for rank_specs, rank_facts in zip(shards, found, strict=True)
        for microbatch, its_facts in zip(rank_specs, rank_facts, strict=True)
        for spec, fact in zip(microbatch, its_facts, strict=True)
    }


def _bare(explored: Sequence[Exploration]) -> list[SequenceSpec]:
    """All trajectories without weights: what a forward pass needs."""
    return [
        SequenceSpec(SequenceKind.TRAJECTORY, one.group.ref, index, one.group.facts.prompt_tokens, length)
        for one in explored
        for index, length in enumerate(one.group.facts.lengths)
    ]
