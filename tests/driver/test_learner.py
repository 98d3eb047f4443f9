"""driver/learner.py: what is scored, what is trained with which weight, and what the ledger says of it afterwards."""

import asyncio

import pytest

from mel_ray.policy.batch import rows_in
from mel_ray.records.experience import DraftState
from mel_ray.records.incident import LostRecords
from mel_ray.records.ledger import DraftFate, TrajectoryFate
from mel_ray.records.row import RowKind, attempts, count_fates, drafts
from tests.driver.fakes import FakeArchive, World, make


async def learn(system, step=1):
    return await system.learner.learn(step, await system.explored(step))


def scored(world):
    return [event for event in world.events if event[0] in ("scored", "reference scored")]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        # one optimizer step: every ratio is 1, and nothing is compared with a reference
        ((), []),
        (("algorithm=cispo",), []),
        (("mel.combination=separate",), []),  # the step on lessons needs no ratio
        (("algorithm.kl.coefficient=0.1",), [("reference scored", "5")]),
        # several steps on attempts: the denominator is asked for before the first, step by step
        (("algorithm.epochs=2",), [("scored", "5")]),
        (("algorithm.minibatches=2",), [("scored", "3"), ("scored", "2")]),
        (("algorithm.minibatches=2", "algorithm.epochs=2", "algorithm.denominator=sampled"), []),  # the samplers' own
        (("algorithm.epochs=2", "algorithm.kl.coefficient=0.1"), [("scored", "5"), ("reference scored", "5")]),
        # a penalty in the reward or in the return: both are scored before credit is given, on attempts alone
        (("algorithm.kl.coefficient=0.1", "algorithm.kl.where=reward"), [("scored", "4"), ("reference scored", "4")]),
        (("algorithm.kl.coefficient=0.1", "algorithm.kl.where=return"), [("scored", "4"), ("reference scored", "4")]),
        # and known from then on, whatever else needs them
        (("algorithm.kl.coefficient=0.1", "algorithm.kl.where=reward", "algorithm.epochs=2"),
         [("scored", "4"), ("reference scored", "4")]),
        (("algorithm.kl.coefficient=0.1", "algorithm.kl.where=return", "algorithm.minibatches=2",
          "mel.combination=separate"), [("scored", "4"), ("reference scored", "4")]),
    ],
)  # fmt: skip
async def test_logprobs_are_asked_for_where_something_is_compared_with_them(overrides, expected):
    # two mixed questions of two attempts; one has a draft that is proven, the other one that leaks
    world = World({"a": "cw", "b": "wc"})
    system = make(world, *overrides)
    explored = [rows if rows[0].question_id == "a" else tuple(attempts(rows)) for rows in await system.explored(1)]
    await system.learner.learn(1, explored)
    assert scored(world) == expected
    assert all(world.events.index(event) < world.events.index(("trained", world.who("trained")[0])) for event in
               expected)  # fmt: skip


@pytest.mark.parametrize("where", ["loss", "reward", "return"])
@pytest.mark.parametrize("epochs", [1, 2])
async def test_a_row_carries_the_logprobs_that_its_loss_compares_with_and_no_others(where, epochs):
    system = make(
        World({"a": "cw"}), "algorithm.kl.coefficient=0.1", f"algorithm.kl.where={where}", f"algorithm.epochs={epochs}"
    )
    await learn(system)
    for row in (row for row in system.trained() if not row.is_lesson):
        assert (row.old_logprobs is not None) == (epochs > 1)
        assert row.reference_logprobs.tolist() == pytest.approx([-1.25 if row.index == 0 else -1.0] * 4)
        if epochs > 1:
            assert row.old_logprobs.tolist() == [-1.0] * 4


async def test_kl_in_the_reward_is_known_before_credit_is_given():
    world = World({"a": "cw", "b": "wc"})
    kl = ("algorithm.kl.coefficient=0.5", "algorithm.kl.where=reward", "algorithm.kl.estimator=k1")
    system = make(world, "algorithm=dr_grpo", *kl, "mel.enabled=false")
    await learn(system)
    # KL is 1 for the first trajectory of a group: rewards 1 - 0.5 and 0, then -0.5 and 1, centred
    found = {(row.ref, row.index): row.credit for row in system.trained()}
    assert found == {("group-a", 0): 0.25, ("group-a", 1): -0.25, ("group-b", 0): -0.75, ("group-b", 1): 0.75}


async def test_kl_in_the_return_is_credit_token_by_token():
    kl = ("algorithm.kl.coefficient=0.5", "algorithm.kl.where=return", "algorithm.kl.estimator=k1")
    system = make(World({"a": "cw"}), "algorithm=dr_grpo", *kl, "mel.enabled=false")
    await learn(system)
    sequences = {row.index: sequence for row, sequence in system.policy.sequences if row.has_weight}
    # what is to go falls from 4 to 1 quarters of the coefficient
    assert sequences[0].advantages.tolist() == pytest.approx([0.5 - 0.5 * k / 4 for k in (4, 3, 2, 1)])
    assert sequences[1].advantages.tolist() == [-0.5] * 4


async def test_what_dynamic_sampling_threw_away_is_neither_scored_nor_trained():
    world = World({name: ("cw" if name in "be" else "cc") for name in "abcde"})
    system = make(
        world, "algorithm=dapo", "mel.enabled=false", "rollout.prompts_per_step=2",
        "algorithm.kl.coefficient=0.1", "algorithm.kl.where=reward",
    )  # fmt: skip
    learned = await learn(system)
    assert {row.ref for row in system.trained()} == {"group-b", "group-e"}
    assert scored(world) == [("scored", "4"), ("reference scored", "4")]
    ledger = count_fates(learned.rows)
    assert ledger.is_balanced
    assert ledger.trajectories[TrajectoryFate.FILTERED] == 2 * len(world.who("generated")) - 4


async def test_the_update_follows_the_configuration():
    system = make(
        World({"a": "cw", "b": "wc"}), "algorithm=gspo", "algorithm.epochs=3", "mel.reptile.every=2",
        "mel.reptile.rate=0.25", "mel.combination=separate", "mel.weight=0.5", "algorithm.lr=1e-3",
        "algorithm.warmup_steps=0",
    )  # fmt: skip
    await learn(system, 1)
    await learn(system, 2)
    (steps, first), (_, second) = system.policy.updates
    assert (first.epochs, first.loss.surrogate, first.lr) == (3, "sequence_clipped", 1e-3)
    assert [(step.optimizer, step.lr_factor) for step in steps] == [("policy", 1.0), ("experience", 0.5)]
    assert (first.slow_rate, second.slow_rate) == (None, 0.25)


async def test_gradients_are_told_apart_every_so_many_steps():
    system = make(World({"a": "cw"}), "observe.gradient_split_every=2")
    await learn(system, 1)
    await learn(system, 2)
    assert [steps[0].experience_from for steps, _ in system.policy.updates] == [None, 1]


def lesson_weights(system, update):
    """Of all lessons of an update, and whether the step of the same name made each."""
    return sum(row.nll_weight * row.trained_tokens for row in system.trained(update) if row.is_lesson)


async def test_the_weight_of_meta_experience_follows_its_schedule():
    system = make(
        World({"a": "cw"}), "mel.weight=1.0", "mel.weight_warmup_steps=4", "mel.memory.size=8", "mel.memory.weight=0.2"
    )
    for step in (1, 2):
        await learn(system, step)
    # a quarter of the weight; then half, and a fifth of that for the one remembered from step 1
    assert [lesson_weights(system, update) for update in (0, 1)] == pytest.approx([0.25, 0.5 + 0.1])


@pytest.mark.parametrize("combination", ["balanced", "separate"])
async def test_where_the_objectives_are_not_added_the_weight_is_not_in_the_loss(combination):
    system = make(World({"a": "cw"}), "mel.weight=0.5", f"mel.combination={combination}")
    await learn(system)
    assert lesson_weights(system, 0) == pytest.approx(1.0)


async def test_a_past_lesson_is_trained_and_counted_in_no_ledger_but_its_own():
    system = make(World({"a": "cw"}), "mel.memory.size=8")
    await learn(system, 1)
    learned = await learn(system, 2)
    assert {row.ref for row in system.trained(1) if row.is_lesson} == {"drafts-a", "drafts-a#2"}
    ledger = count_fates(learned.rows)
    assert (ledger.sampled_drafts, ledger.drafts) == (1, {DraftFate.TRAINED: 1})


async def test_without_meta_experience_no_lesson_is_learned_and_none_remembered():
    system = make(World({"a": "cw", "b": "wc"}), "mel.enabled=false", "mel.memory.size=8")
    learned = await learn(system)
    assert learned.lessons.fresh == learned.lessons.past == ()
    assert system.learner.memory.entries == []
    assert not any(row.nll_weight for row in system.trained())


@pytest.mark.parametrize(
    ("replay", "state", "fate"),
    [
        ("w", DraftState.PARSED, DraftFate.REPLAY_FAILED),
        ("t", DraftState.PARSED, DraftFate.REPLAY_UNVERIFIED),
        ("c", DraftState.PARSE_FAILURE, DraftFate.PARSE_FAILURE),
        ("c", DraftState.LEAKED_ANSWER, DraftFate.LEAKED_ANSWER),
    ],
)
async def test_drafts_that_are_not_proven_are_counted_and_not_trained(replay, state, fate):
    system = make(World({"a": "cw"}, replay=replay), state=state)
    learned = await learn(system)
    assert count_fates(learned.rows).drafts == {fate: 1}
    assert not any(row.nll_weight for row in system.trained())


async def test_a_step_without_signal_trains_nothing_and_is_recorded():
    system = make(World({"a": "cc", "b": "ww"}))
    learned = await learn(system)
    await learned.recording
    assert (learned.update.moved, learned.minibatches, system.policy.updates) == (False, 0, [])
    (recorded,) = system.archive.rows
    assert {row.fate for row in recorded} == {TrajectoryFate.NO_SIGNAL}


async def test_the_archive_writes_final_fates_while_the_policy_trains():
    world = World({"a": "cw"})
    system = make(world)
    trained = system.policy.train

    async def slow(steps, settings):
        while "recorded" not in dict(world.events):
            await asyncio.sleep(0)
        return await trained(steps, settings)

    system.policy.train = slow
    learned = await learn(system)
    (recorded,) = system.archive.rows
    assert recorded == learned.rows
    assert [row.fate for row in attempts(recorded)] == [TrajectoryFate.TRAINED] * 2
    assert [(row.fate, row.is_proven) for row in drafts(recorded)] == [(DraftFate.TRAINED, True)]


async def test_texts_are_kept_although_the_update_fails():
    class Slow(FakeArchive):
        async def record(self, step, rows, version=0):
            await asyncio.sleep(0.01)
            await super().record(step, rows, version)

    async def broken(steps, settings):
        raise FloatingPointError("the loss is not finite")

    system = make(World({"a": "cw"}))
    system.policy.train, system.learner.archive = broken, Slow(system.world)
    with pytest.raises(FloatingPointError):
        await learn(system)
    assert len(system.learner.archive.rows) == 1


@pytest.mark.parametrize("target", ["experience", "replay"])
@pytest.mark.parametrize("context", ["retrospective", "question"])
async def test_what_a_lesson_is_conditioned_on_reaches_the_ranks(target, context):
    system = make(World({"a": "cw"}), f"mel.target={target}", f"mel.context={context}")
    await learn(system)
    ((row, sequence),) = [(row, one) for row, one in system.policy.sequences if row.nll_weight]
    assert row.kind is (RowKind.REPLAY if target == "replay" else RowKind.DRAFT)
    is_bare = target == "replay" or context == "question"
    expected = 3 if is_bare else 7  # tokens of the fakes' prompts
    assert sequence.mask.tolist() == [False] * expected + [True] * (4 if target == "replay" else 5)


async def test_every_rank_gets_as_many_microbatches_and_every_row_is_trained_once():
    system = make(World(dict.fromkeys("abc", "cwcw")), "cluster.policy.token_budget=16", "mel.enabled=false")
    learned = await learn(system)
    ((step,), _) = system.policy.updates[0]
    assert len({len(rank) for rank in step.shards}) == 1
    weighed = [row.sample for row in rows_in(step.shards) if row.has_weight]
    assert len(weighed) == len(set(weighed)) == 12
    assert set(weighed) == {row.sample for row in learned.rows if row.fate is TrajectoryFate.TRAINED}


async def test_guided_tokens_have_the_policy_before_the_update_whatever_the_denominator():
    words = ("mel.credit=augment", "mel.weight=0", "algorithm.epochs=2", "algorithm.denominator=sampled")
    plain, guided = (
        make(World({"a": "cw"}), "algorithm.epochs=2", "algorithm.denominator=sampled"),
        make(World({"a": "cw"}), *words),
    )
    for system in (plain, guided):
        await learn(system)
    assert {row.old_logprobs is None for row in plain.trained()} == {True}
    assert {row.old_logprobs is None for row in guided.trained()} == {False}


async def test_what_cannot_be_remembered_loses_no_text():
    system = make(World({"a": "cw"}), "mel.retrieval.method=bm25", "mel.credit=augment")

    async def lost(step, rows):
        raise LostRecords("gone")

    system.learner.book.add = lost
    with pytest.raises(LostRecords):
        await learn(system)
    assert len(system.archive.rows) == 1
