"""benchmarks/pays_table.py: the study asks for what it shows, and its tables can be made of its results."""

import pytest

from benchmarks.pays_arms import BANDS, BENCHMARKS, EVERY, GRPO, PRIMARY, RESAMPLED, SECONDARY, SHUFFLED, STEPS
from benchmarks.pays_table import (
    SHOWN,
    at_rate,
    differences,
    interval,
    lessons,
    levels,
    run_of,
    share_of_tokens,
    thirds,
    tokens_until,
)  # fmt: skip
from benchmarks.study import Result
from benchmarks.study_worker import SERIES
from mel_ray.config.checks import find_problems
from mel_ray.config.load import compose_config

ARMS = (*PRIMARY, *SECONDARY)


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_every_arm_can_be_run_and_is_evaluated_where_it_is_shown(arm):
    config = compose_config(run_of(arm, "8e-4", 0).overrides)
    assert find_problems(config) == []
    evaluated = {*range(EVERY, STEPS, config.eval.every), STEPS if config.eval.after else 0}
    assert set(SHOWN) <= evaluated
    assert [one.name for one in config.eval.benchmarks] == list(BENCHMARKS)
    assert (config.run.steps, config.eval.samples) == (STEPS, 8)


def result(arm, seed: int, rise: float) -> Result:
    scores = {
        str(step): {f"{name}/avg@8": rise * step / STEPS + 0.001 * seed for name in BENCHMARKS}
        for step in range(EVERY, STEPS + 1, EVERY)
    }
    series = {"tokens": [100.0] * STEPS, **{name: [0.5] * STEPS for name in SERIES}}
    return Result(run_of(arm, "8e-4", seed), scores, [], 1.0, 100.0 * STEPS, [], series)


def test_tables_are_made_of_results():
    found = {arm.name: [result(arm, seed, 0.5 + 0.1 * n) for seed in range(3)] for n, arm in enumerate(PRIMARY)}
    rates = dict.fromkeys(found, "8e-4")
    assert len(list(levels(found, rates))) == 2 + len(PRIMARY)
    lines = list(differences(found, (GRPO,)))
    assert len(lines) == 2 + len(PRIMARY) - 1
    assert "**+10.0 ± 0.0**" in lines[2]  # at the last step
    assert lines[2].endswith("| 1.00x |")
    own = [arm for arm in PRIMARY if not any("mel.lesson=" in word for word in arm.overrides)]
    assert len(list(lessons(found))) == 2 + len(own)
    assert tokens_until(found[PRIMARY[2].name][0], 0.35) == 100.0 * 30  # 0.35 at step 30
    assert share_of_tokens(found[GRPO.name], found[GRPO.name]) == "1.00x"
    assert share_of_tokens(found[PRIMARY[5].name], found[GRPO.name]) == "0.50x"  # twice as steep
    assert tokens_until(found[PRIMARY[0].name][0], 0.9) is None
    assert BANDS[0] == "rules_hidden"


def test_controls_are_measured_at_the_arms_rate_too():
    rates = {arm.name: "8e-4" for arm in PRIMARY} | {RESAMPLED.name: "4e-4"}
    (added,) = at_rate((RESAMPLED, SHUFFLED), rates, "8e-4")
    assert (added.overrides, rates[added.name]) == (RESAMPLED.overrides, "8e-4")


def test_means_over_thirds_are_weighted():
    one = result(GRPO, 0, 0.5)
    one.series["mel/kept"][0], one.series["mel/right_rule_share"][0] = 39.5, 1.0  # as much as the rest of the third
    assert thirds([one], "mel/right_rule_share", "mel/kept") == "0.90, 0.50, 0.50"
    one.series["mel/right_rule_share"][40:] = [None] * 20
    assert thirds([one], "mel/right_rule_share", "mel/kept").endswith(", -")


def test_an_interval_is_students():
    mean, half = interval([1.0, 2.0, 3.0])
    assert (mean, half) == (2.0, pytest.approx(4.303 / 3**0.5))
