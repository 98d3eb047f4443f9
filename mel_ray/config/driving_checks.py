"""Problems of how exploring and learning overlap: what would train on samples that nothing corrects, what excludes
each other."""

from collections.abc import Iterator

from mel_ray.config.schema import Config
from mel_ray.records.problem import Problem


def find_driving_problems(config: Config) -> Iterator[Problem]:
    yield from _modes(config)
    if config.is_off_policy:
        yield from find_correction_problems(config)


def _modes(config: Config) -> Iterator[Problem]:
    driver = config.driver
    if driver.keep_kv and driver.publish != "in_flight":
        why = (
            "with driver.publish=drain no request lives through an update, so there are no old keys and values to keep"
        )
        yield Problem("driver.keep_kv", True, why, "set driver.publish=in_flight, or leave it out")
    if config.rollout.partial and driver.publish != "in_flight":
        why = "sequences that go on under the next weights cannot be waited for before new weights are published"
        yield Problem("rollout.partial", True, why, "set driver.publish=in_flight")
    if driver.stale == "drop" and driver.capacity > driver.max_staleness:
        why = f"batches that far ahead would be older than driver.max_staleness={driver.max_staleness} and dropped"
        yield Problem(
            "driver.capacity", driver.capacity, why, "lower it, raise driver.max_staleness or set driver.stale=train"
        )
    elif config.rollout.partial and driver.stale == "drop" and driver.capacity == driver.max_staleness:
        why = (
            f"every sequence that outlives its batch would be older than driver.max_staleness={driver.max_staleness} "
            "and dropped"
        )
        yield Problem("rollout.partial", True, why, "raise driver.max_staleness or set driver.stale=train")
    if config.run.replay_order is not None and (driver.publish != "drain" or config.rollout.partial):
        why = "in flight, what a sequence saw of an update depends on time and cannot be repeated"
        yield Problem("run.replay_order", config.run.replay_order, why, "set driver.publish=drain, or leave it out")


def find_correction_problems(config: Config) -> Iterator[Problem]:
    """What would train on samples older than the policy without a correction."""
    algorithm = config.algorithm
    if algorithm.importance_cap is not None:
        return
    key, value, off = "driver.capacity", config.driver.capacity, "driver.capacity=0"
    if not value:
        key, value, off = "rollout.partial", True, "rollout.partial=false"
    elif config.rollout.partial:
        off = "driver.capacity=0 rollout.partial=false"
    remedy = "set algorithm.importance_cap=2"
    if algorithm.surrogate == "logprob":
        why = "samples would be older than the policy, and the logprob surrogate has no ratio that could correct for it"
        yield Problem(key, value, why, f"{remedy}, or {off}")
    elif algorithm.denominator == "proximal" and (algorithm.epochs > 1 or algorithm.minibatches > 1):
        why = (
            "samples would be older than the policy, and with several optimizer steps a batch the ratio compares with "
            "the policy before the update alone"
        )
        yield Problem(key, value, why, f"{remedy} (decoupled), or algorithm.denominator=sampled")
