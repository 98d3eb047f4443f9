"""The guard in driver/guards.py: a run stops when the verifier fails too often, and only then."""

from collections import Counter

import pytest

from mel_ray.driver.guards import ENOUGH, WINDOW, FailureGuard, VerifierFailure, refuse_poison_alone
from mel_ray.driver.state import RunState
from mel_ray.records.incident import Poison, PoolError
from tests.driver.fakes import World, make
from tests.unit.builders import exploration, proven


def judgements(letters):
    """Questions of eight attempts with these verdicts."""
    return [exploration((1,) * 8, letters[n : n + 8]) for n in range(0, len(letters), 8)]


def test_a_few_judgements_are_too_few_to_stop_a_run():
    guard = FailureGuard(0.2)
    guard.watch(judgements("t" * (ENOUGH - 8)))
    with pytest.raises(VerifierFailure):
        guard.watch(judgements("t" * 8))


def test_a_share_up_to_the_limit_is_allowed():
    guard = FailureGuard(0.25)
    guard.watch(judgements("tecwcwcw" * 20))
    with pytest.raises(VerifierFailure, match=r"failed on 48 of the last 168 answers, more than .*=0\.25"):
        guard.watch(judgements("t" * 8))


def test_failures_of_long_ago_are_forgotten():
    guard = FailureGuard(0.2)
    guard.watch(judgements("ct" * 16 + "c" * 128))
    guard.watch(judgements("c" * WINDOW))
    guard.watch(judgements("t" * (WINDOW // 5)))
    with pytest.raises(VerifierFailure, match=f"last {WINDOW} answers"):
        guard.watch(judgements("t" * 8))


def test_replays_are_not_counted():
    guard = FailureGuard(0.2)
    guard.watch([exploration((1,) * 8, "cwcwcwcw", [proven(replays="tttttttt")])] * 20)
    with pytest.raises(VerifierFailure, match="failed on 64 of the last 224 answers"):
        guard.watch(judgements("t" * 64))


def test_wrong_answers_are_no_failures():
    guard = FailureGuard(0.2)
    guard.watch(judgements("wn" * 400))
    with pytest.raises(VerifierFailure, match=f"failed on 208 of the last {WINDOW} answers"):
        guard.watch(judgements("t" * 208))


async def test_a_question_that_ends_two_actors_is_not_asked_again_and_a_batch_of_them_ends_the_run(tmp_path):
    world = World(dict.fromkeys("abcd", "cw"))
    system, asked = make(world, "run.steps=9"), Counter[str]()
    generate = system.rollout.generate

    async def poisoned(prompt, sampling):
        asked[prompt.question_id] += 1
        if prompt.question_id in "ab":
            raise Poison("engine 1 died")
        return await generate(prompt, sampling)

    system.rollout.generate = poisoned
    await system.step(1)
    assert sorted(system.loop.state.quarantined) == ["a", "b"]
    for step in (2, 3, 4):
        await system.step(step)
    assert asked == Counter(a=1, b=1, c=4, d=4)
    system.loop.state.write(tmp_path)
    assert sorted(RunState.read(tmp_path).quarantined) == ["a", "b"]
    with pytest.raises(PoolError, match="2 questions, and each of them ended two engines"):
        refuse_poison_alone(5, [(), ()])
