"""driver/explorer.py: which questions are asked, and what is done with a judged group."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from mel_ray.data.prompts import PromptStream
from mel_ray.mel.book import Entry
from mel_ray.records.experience import DraftState
from mel_ray.records.incident import LostRecords
from mel_ray.records.ledger import DraftFate, TrajectoryFate
from mel_ray.records.row import RowKind, attempts, drafts, is_mixed
from tests.driver.fakes import FakeRewards, World, make
from tests.unit.builders import draft_row, prompt, proven


async def test_only_mixed_groups_are_contrasted():
    world = World({"mixed": "cw", "right": "cc", "wrong": "ww", "failed": "ct"})
    explored = await make(world).explored(1)
    assert world.who("abstracted") == ["mixed"]
    assert {len(attempts(rows)) for rows in explored} == {2}
    assert [len(drafts(rows)) for rows in explored] == [int(is_mixed(rows)) for rows in explored]


async def test_a_question_brings_its_attempts_and_then_its_drafts_with_their_replays():
    world = World({"a": "cw"})
    (rows,) = await make(world).explored(1)
    assert [row.kind for row in rows] == [RowKind.ATTEMPT, RowKind.ATTEMPT, RowKind.DRAFT]
    (draft,) = drafts(rows)
    assert draft.is_proven
    assert [(replay.kind, replay.verdict.is_correct) for replay in draft.replays] == [(RowKind.REPLAY, True)]
    assert all(row.fate is None for row in rows)  # nothing has been trained yet


@pytest.mark.parametrize("state", [state for state in DraftState if state is not DraftState.PARSED])
async def test_a_rejected_draft_is_not_replayed(state):
    world = World({"a": "cw"})
    (rows,) = await make(world, state=state).explored(1)
    assert world.who("replayed") == []
    (draft,) = drafts(rows)
    assert (draft.fate, draft.replays, draft.is_proven) == (DraftFate(state.value), (), False)


async def test_more_can_be_done_with_a_judged_group_than_to_contrast_it():
    world = World({"mixed": "cw", "wrong": "ww"})
    system = make(world)
    explorer = system.explorer

    async def hint(prompt, judged, step):
        world.note("hinted", judged[0].question_id)
        return (draft_row(ref="hint"),)

    explorer.follow_ups.append((lambda judged: not any(row.verdict.is_correct for row in judged), hint))
    explored = {rows[0].question_id: drafts(rows) for rows in await system.explored(1)}
    assert world.who("hinted") == ["wrong"]
    assert {name: [row.ref for row in found] for name, found in explored.items()} == {
        "mixed": ["drafts-mixed"], "wrong": ["hint"],
    }  # fmt: skip


async def test_without_meta_experience_there_is_nothing_to_do_with_a_group():
    world = World({"a": "cw"})
    system = make(world, "mel.enabled=false")
    await system.explored(1)
    assert system.explorer.follow_ups == []
    assert {what for what, _ in world.events} == {"generated", "judged"}


async def test_no_question_waits_for_another():
    world = World({"fast": "cw", "slow": "cw"}, delays={"slow": 0.3})
    await make(world).explored(1)
    assert world.events.index(("replayed", "drafts-fast")) < world.events.index(("generated", "slow"))


async def test_meta_experience_does_not_change_the_seeds_of_the_rollout():
    outcomes = {"a": "cw", "b": "wc"}
    one, other = make(World(outcomes)), make(World(outcomes), "mel.enabled=false")
    await one.explored(1)
    await other.explored(1)
    assert one.rollout.seeds == other.rollout.seeds


async def test_seeds_differ_between_steps_questions_and_samples():
    system = make(World({"a": "cw", "b": "cw"}))
    await system.explored(1)
    await system.explored(2)
    seeds = [seed for group in system.rollout.seeds for seed in group]
    assert len(set(seeds)) == len(seeds) == 8


async def test_a_failing_pool_stops_the_batch_and_cancels_what_is_under_way():
    class Broken(FakeRewards):
        async def judge(self, group):
            raise RuntimeError("the verifier is gone")

    world = World({"a": "cw", "slow": "cw"}, delays={"slow": 60})
    system = make(world)
    system.explorer.rewards = Broken(world)
    with pytest.raises(ExceptionGroup) as caught:
        await system.explored(1)
    assert "the verifier is gone" in str(caught.value.exceptions[0])
    assert world.who("generated") == ["a"]


def data_order(names):
    return [one.question_id for one in PromptStream([prompt(question_id=n) for n in names], 0).take(len(names))]


DAPO = ("algorithm=dapo", "mel.enabled=false", "rollout.prompts_per_step=2")


@pytest.mark.parametrize("delays", [{}, {"b": 0.05, "e": 0.02}, {"a": 0.05, "c": 0.03, "h": 0.01}])
async def test_dynamic_sampling_asks_until_enough_groups_are_mixed(delays):
    # the stream in its shuffled order; three of the eight are mixed
    world = World({name: ("cw" if name in "beh" else "cc") for name in "abcdefgh"}, delays=delays)
    explored = await make(world, *DAPO, "algorithm.dynamic_sampling.max_factor=4.0").explored(1)
    order = data_order("abcdefgh")
    wanted = [name for name in order if name in "beh"][:2]
    asked = set(world.who("generated"))
    assert asked == set(order[: order.index(wanted[1]) + 1])  # the shortest stretch that holds two
    fates = {rows[0].question_id: {row.fate for row in rows} for rows in explored}
    assert fates == {name: {None} if name in wanted else {TrajectoryFate.FILTERED} for name in asked}
    # the batch first, then what was thrown away, both in the order of the data
    assert [rows[0].question_id for rows in explored] == wanted + [n for n in order if n in asked - set(wanted)]


async def test_dynamic_sampling_stops_at_its_cap():
    world = World(dict.fromkeys("abcdefgh", "cc"))
    await make(world, *DAPO, "algorithm.dynamic_sampling.max_factor=3.0").explored(1)
    assert len(world.who("generated")) == 6


async def test_questions_are_returned_in_the_order_of_the_data_whatever_the_timing():
    world = World(dict.fromkeys("abcd", "cw"), delays={"a": 0.03, "b": 0.01, "c": 0.02})
    explored = await make(world).explored(1)
    assert [rows[0].question_id for rows in explored] == data_order("abcd")
    assert asyncio.all_tasks() == {asyncio.current_task()}


WROTE = {"mixed": ["mixed"], "wrong": ["silent"], "both": ["mixed", "silent"]}
OUTCOMES = {"mixed": "cw", "right": "cc", "silent": "ww", "failed": "ct", "unjudged": "tt"}


@pytest.mark.parametrize("write", list(WROTE))
async def test_which_groups_get_meta_experiences(write):
    world = World(OUTCOMES)
    await make(world, f"mel.write={write}").explored(1)
    assert sorted(world.who("abstracted")) == WROTE[write]


@pytest.mark.parametrize("resample", list(WROTE))
async def test_groups_are_sampled_again_without_a_lesson(resample):
    world = World(OUTCOMES)
    system = make(world, "mel.enabled=false", f"rollout.resample={resample}", "rollout.resample_size=3")
    explored = await system.explored(1)
    again = {rows[0].question_id: [row for row in rows if row.kind is RowKind.RESAMPLED] for rows in explored}
    assert sorted(name for name, rows in again.items() if rows) == WROTE[resample]
    assert {len(rows) for rows in again.values()} == {0, 3}
    assert all(row.is_solution and row.verdict and not row.is_lesson for rows in again.values() for row in rows)
    seeds = [seed for group in system.rollout.seeds for seed in group]
    assert len(set(seeds)) == len(seeds)


async def test_with_augment_the_replays_join_the_group_and_are_trained():
    world = World({"silent": "ww"}, replay="c")
    system = make(world, "mel.write=both", "mel.credit=augment", "mel.weight=0")
    report = await system.step(1)
    trained = system.trained()
    assert sorted((row.kind, row.credit > 0) for row in trained) == [
        (RowKind.ATTEMPT, False), (RowKind.ATTEMPT, False), (RowKind.REPLAY, True),
    ]  # fmt: skip
    assert report.ledger.drafts == {DraftFate.GUIDED: 1}
    assert report.ledger.trajectories == {TrajectoryFate.TRAINED: 3}
    assert report.ledger.is_balanced


async def test_without_augment_an_all_wrong_group_teaches_by_its_lesson_alone():
    system = make(World({"silent": "ww"}, replay="c"), "mel.write=both")
    await system.step(1)
    assert [row.kind for row in system.trained()] == [RowKind.DRAFT]


async def test_by_gain_a_lesson_that_changes_nothing_is_not_kept():
    world = World({"a": "cccw", "b": "wwww"}, replay="c")
    explored = await make(world, "mel.write=both", "mel.keep=gain", "mel.min_gain=0.5").explored(1)
    fates = {rows[0].question_id: [draft.fate for draft in drafts(rows)] for rows in explored}
    assert fates == {"a": [DraftFate.NO_GAIN], "b": [None]}


async def test_dynamic_sampling_keeps_a_silent_group_that_a_lesson_opens():
    world = World({"a": "ww", "b": "cc"}, replay="c")
    words = ("algorithm=dapo", "mel.enabled=true", "mel.write=both", "rollout.prompts_per_step=1")
    kept = {}
    for credit in ("mel.credit=[]", "mel.credit=augment", "mel.credit=hint"):
        explored = await make(world, *words, credit).explored(1)
        kept[credit] = {rows[0].question_id for rows in explored if rows[0].fate is None}
    assert kept == {"mel.credit=[]": set(), "mel.credit=augment": {"a"}, "mel.credit=hint": {"a"}}


async def test_as_a_control_a_replay_is_shown_a_lesson_of_another_question():
    world = World({"a": "cw", "b": "cw"})
    words = ("mel.credit=augment", "mel.weight=0", "mel.lesson=shuffled")
    system = make(world, *words)
    for step in (1, 2):
        await system.step(step)
    replayed = world.who("replayed")
    assert sorted(replayed[:2]) == ["drafts-a", "drafts-b"]  # there is no earlier step
    assert {text.split(" with ")[1].partition("#")[0] for text in replayed[2:] if text.startswith("drafts-a")} == {
        "drafts-b"
    }
    assert len(replayed) == 4


async def test_a_lesson_changes_the_credit_of_every_token_of_its_questions_attempts():
    world = World({"silent": "ww", "other": "ww"}, replay="c")
    system = make(world, "mel.write=both", "mel.credit=hint", "mel.weight=0")
    made = system.policy.made

    def logprobs(row, of_reference):
        count = len(made(row).pg_weight)
        return np.full(count, -0.5 if row.context else -1.0, dtype=np.float32)  # M makes them likelier

    system.policy._logprobs = logprobs
    report = await system.step(1)
    trained = system.trained()
    assert {row.kind for row in trained} == {RowKind.ATTEMPT}
    assert len(trained) == 4
    for row in trained:
        assert row.credit == pytest.approx(np.full(4, np.tanh(0.5)))
    assert world.who("scored") == ["4", "4"]
    assert report.ledger.drafts == {DraftFate.GUIDED: 2}


TRAVEL = ("mel.retrieval.method=bm25", "mel.credit=augment", "mel.weight=0")


def known_to(system, question_id="elsewhere", text="If 1 + 1 is asked, then add."):
    """Three lessons in the book; the question's words stand in one."""
    others = [Entry(1, words, replace(proven(ref=words), question_id=words)) for words in ("a b", "c d")]
    system.explorer.book.entries = [*others, Entry(2, text, replace(proven(ref="lesson"), question_id=question_id))]


@pytest.mark.parametrize("replay", ["c", "w"])
async def test_for_an_all_wrong_group_a_lesson_of_another_question_is_replayed(replay):
    world = World({"silent": "ww", "mixed": "cw"}, replay=replay)
    system = make(world, *TRAVEL, "mel.write=both", data_question="What zade 1?")
    known_to(system, text="If zade is asked, then add.")
    explored = {rows[0].question_id: rows for rows in await system.explored(5)}
    assert world.who("recalled") == ["elsewhere for silent"]
    (recalled,) = [row for row in explored["silent"] if row.kind is RowKind.RECALLED]
    assert (recalled.age, recalled.is_proven, recalled.gain) == (3, replay == "c", 1.0 if replay == "c" else 0.0)
    joined = [row for row in explored["silent"] if row.is_guided]
    assert {row.ref for row in joined} >= {"recall-silent"}
    # where it helps, no lesson is written
    assert world.who("abstracted").count("silent") == (0 if replay == "c" else 1)


async def test_nothing_is_recalled_where_no_lesson_is_alike_or_the_question_is_its_own():
    for known in ({"text": "If bomo is asked, then add."}, {"question_id": "silent", "text": "If zade is asked, add."}):
        world = World({"silent": "ww"})
        system = make(world, *TRAVEL, data_question="What zade 1?")
        known_to(system, **known)
        await system.explored(5)
        assert world.who("recalled") == []


async def test_what_a_step_learns_from_is_found_in_the_next():
    world = World({"mixed": "cw", "other": "cw"}, replay="c")
    system = make(world, *TRAVEL, "mel.write=both")
    report = await system.step(1)
    entries = system.explorer.book.entries
    assert sorted(one.row.question_id for one in entries) == ["mixed", "other"]
    assert {(one.step, one.text) for one in entries} == {(1, "1 + 1?\nIf a, then b.")}
    assert "travel/recalled" not in report.metrics


@pytest.mark.parametrize(
    ("replay", "keep"), [("c", "replay"), ("c", "gain"), ("w", "replay"), ("w", "gain"), ("t", "replay")]
)
async def test_a_recalled_lesson_is_not_a_draft_of_the_step(replay, keep):
    world = World({"silent": "ww"}, replay=replay)
    system = make(world, *TRAVEL, f"mel.keep={keep}", data_question="What zade 1?")
    known_to(system, text="If zade is asked, then add.")
    report = await system.step(5)
    assert report.ledger.drafts == {}
    assert report.ledger.is_balanced
    if replay == "c":
        assert report.ledger.trajectories == {TrajectoryFate.TRAINED: 3}
    assert report.metrics["travel/recalled"] == 1.0
    assert report.metrics["travel/pass_share"] == (replay == "c")
    assert report.metrics["travel/age"] == 3.0
    assert report.metrics["mel/pairs"] == 0.0
    assert report.metrics["tokens/experience"] == 4.0
    assert system.policy.updates == [] or system.policy.updates[0][1].version is None  # old lessons make no batch stale


async def test_a_lesson_whose_records_are_lost_is_forgotten():
    world = World({"silent": "ww"})
    system = make(world, *TRAVEL, data_question="What zade 1?")
    known_to(system, text="If zade is asked, then add.")

    async def lost(*_):
        raise LostRecords("gone")

    system.explorer.experience.recall = lost
    ((*rows,),) = await system.explored(5)
    assert {row.kind for row in rows} == {RowKind.ATTEMPT}
    assert "lesson" not in [one.row.ref for one in system.explorer.book.entries]


async def test_a_recalled_lesson_lends_credit_too():
    world = World({"silent": "ww"}, replay="c")
    system = make(world, "mel.retrieval.method=bm25", "mel.credit=hint", "mel.weight=0", data_question="What zade 1?")
    known_to(system, text="If zade is asked, then add.")
    await system.step(5)
    assert world.who("scored") == ["2", "2"]
