"""config/driving_checks.py: every wrong way to overlap exploring and learning is named with its remedy; right ones are
not."""

import pytest

from mel_ray.config.driving_checks import find_driving_problems
from tests.unit.builders import config_of

CORRECTED = "algorithm.importance_cap=2"
IN_FLIGHT = "driver.publish=in_flight"


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("driver.capacity=1",),
        ("driver.capacity=4", CORRECTED),
        ("driver.capacity=1", IN_FLIGHT, "driver.keep_kv=true"),
        (IN_FLIGHT, "rollout.partial=true"),
        ("driver.capacity=2", IN_FLIGHT, "rollout.partial=true", CORRECTED, "algorithm.epochs=2"),
        ("driver.capacity=6", "driver.stale=train"),
        ("driver.capacity=6", "driver.max_staleness=6"),
        ("driver.capacity=1", "run.replay_order=other"),
        ("algorithm.surrogate=logprob",),
        ("driver.capacity=1", "algorithm.surrogate=logprob", CORRECTED),
        ("driver.capacity=1", "algorithm.minibatches=2", "algorithm.denominator=sampled"),
        ("algorithm.epochs=2",),
    ],
)
def test_what_can_be_done_has_no_problem(overrides):
    assert list(find_driving_problems(config_of(*overrides))) == []


@pytest.mark.parametrize(
    ("overrides", "key", "why", "remedy"),
    [
        (("driver.keep_kv=true",), "driver.keep_kv=True", "no old keys and values to keep",
         "set driver.publish=in_flight"),
        (("rollout.partial=true",), "rollout.partial=True", "cannot be waited for", "set driver.publish=in_flight"),
        (("driver.capacity=5",), "driver.capacity=5", "ahead would be older than driver.max_staleness=4",
         "lower it, raise driver.max_staleness or set driver.stale=train"),
        (("run.replay_order=other", IN_FLIGHT), "run.replay_order=other", "depends on time and cannot be repeated",
         "set driver.publish=drain"),
        ((IN_FLIGHT, "rollout.partial=true", "driver.max_staleness=0"), "rollout.partial=True",
         "older than driver.max_staleness=0 and dropped", "raise driver.max_staleness"),
        (("driver.capacity=1", "algorithm.surrogate=logprob", IN_FLIGHT, "rollout.partial=true"), "driver.capacity=1",
         "no ratio", "or driver.capacity=0 rollout.partial=false"),
        (("driver.capacity=1", "algorithm.surrogate=logprob"), "driver.capacity=1", "no ratio that could correct",
         "set algorithm.importance_cap=2, or driver.capacity=0"),
        (("driver.capacity=1", "algorithm.epochs=2"), "driver.capacity=1", "several optimizer steps",
         "set algorithm.importance_cap=2 (decoupled), or algorithm.denominator=sampled"),
        (("driver.capacity=1", "algorithm.minibatches=2"), "driver.capacity=1", "several optimizer steps",
         "algorithm.denominator=sampled"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_named_with_its_remedy(overrides, key, why, remedy):
    (problem,) = find_driving_problems(config_of(*overrides))
    assert why in str(problem)
    assert remedy in problem.remedy
    assert str(problem).startswith(f"{key}: ")


def test_partial_rollouts_that_nothing_corrects_are_named_by_their_own_key():
    overrides = (IN_FLIGHT, "rollout.partial=true", "algorithm.surrogate=logprob")
    (problem,) = find_driving_problems(config_of(*overrides))
    assert str(problem).startswith("rollout.partial=True: samples would be older than the policy")
    assert str(problem).endswith("or rollout.partial=false.")
