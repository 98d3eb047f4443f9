"""From configuration and batch to what the policy pool is asked to do in a step."""

from collections.abc import Sequence

from mel_ray.config.schema import AlgorithmConfig, Config
from mel_ray.mel.lesson import Memory, lessons_of
from mel_ray.records.exploration import Exploration
from mel_ray.records.update import LossSettings, Update
from mel_ray.policy.batch import Batch, Lessons, optimizer_steps
from mel_ray.policy.schedule import experience_weight, learning_rate


def loss_settings(algorithm: AlgorithmConfig) -> LossSettings:
    kl = algorithm.kl
    return LossSettings(
        surrogate=algorithm.surrogate,
        clip_low=algorithm.clip_low,
        clip_high=algorithm.clip_high,
        dual_clip=algorithm.dual_clip,
        log_ratio_clamp=algorithm.log_ratio_clamp,
        importance_cap=algorithm.importance_cap,
        importance_level=algorithm.importance_level,
        importance_mode=algorithm.importance_mode,
        kl_estimator=kl.estimator,
        kl_in_loss=kl.coefficient if kl.where == "loss" else 0.0,
        kl_in_reward=kl.coefficient if kl.where != "loss" else 0.0,
        entropy_coefficient=algorithm.entropy_coefficient,
    )


def plan_lessons(explored: Sequence[Exploration], memory: Memory, config: Config, step: int) -> Lessons:
    """This step's lessons and those drawn from memory, which then learns of the new ones.

    Where the two objectives are not simply added, the weight lies elsewhere: in the gradient's scale (balanced)
    or in the learning rate (separate).
    """
    mel = config.mel
    weight = experience_weight(mel, step, config.run.steps)
    if not (mel.enabled and weight):
        return Lessons()
    fresh = [lessons_of(one, mel) for one in explored]
    past = memory.draw(step, mel.memory.per_step)
    memory.add(step, [lesson for of_one in fresh for lesson in of_one])
    weight = weight if mel.combination == "joint" else 1.0
    return Lessons(fresh, weight, past, weight * mel.memory.weight)


def plan_update(batch: Batch, config: Config, ranks: int, step: int) -> Update:
    algorithm, mel, steps = config.algorithm, config.mel, config.run.steps
    every, slow_every = config.observe.gradient_split_every, mel.reptile.every if mel.enabled else 0
    return Update(
        steps=optimizer_steps(
            batch.minibatches,
            mel,
            experience_weight(mel, step, steps),
            ranks,
            config.cluster.policy.token_budget,
            is_split_due=every > 0 and step % every == 0,
        ),
        lr=learning_rate(algorithm, step, steps),
        loss=loss_settings(algorithm),
        epochs=algorithm.epochs,
        slow_rate=mel.reptile.rate if slow_every and step % slow_every == 0 else None,
    )
