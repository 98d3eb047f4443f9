"""mel/memory.py: a bounded replay buffer of lessons, and its place in a checkpoint."""

import asyncio
from dataclasses import replace

import pytest

from mel_ray.mel.lesson import lessons_of
from mel_ray.mel.memory import Memory
from mel_ray.policy.rows import rows_of, weigh_lessons
from mel_ray.policy.sequences import train_sequence
from tests.unit.builders import FakeStore, draft, exploration, group, proven, small_config, with_options


def memory_of(size, max_age=5, store=None):
    return Memory(size, max_age, 0, FakeStore() if store is None else store)


def numbered(count):
    (lesson,) = lessons_of(rows_of([exploration((2, 2), "cw", [proven()])]), small_config().mel)
    return [replace(lesson, index=index) for index in range(count)]


def test_memory_is_bounded_by_size_and_age():
    lessons, memory = numbered(6), memory_of(4)
    memory.add(1, lessons[:3])
    memory.add(3, lessons[3:])
    assert [lesson.index for _, lesson in memory.entries] == [2, 3, 4, 5]
    assert {lesson.index for lesson in memory.draw(6, 10)} == {2, 3, 4, 5}
    assert {lesson.index for lesson in memory.draw(7, 10)} == {3, 4, 5}  # the first is now older than five steps
    assert memory.draw(7, 2) == memory.draw(7, 2)
    assert memory.draw(9, 10) == []


def test_a_memory_that_is_off_remembers_nothing():
    off = memory_of(0)
    off.add(1, numbered(3))
    assert off.entries == []
    off.entries = [(3, numbered(1)[0])]  # of a checkpoint from before it was switched off
    assert off.draw(4, 10) == []


@pytest.mark.parametrize("options", [{}, {"mel__context": "question"}, {"mel__target": "replay"}])
def test_what_a_checkpoint_restores_can_be_trained_again(options, tmp_path):
    before = FakeStore(drafts=(draft(length=5),), question=group((2, 2)), replays=group((3, 3)))
    cfg = with_options(small_config(), **options)
    lessons = lessons_of(rows_of([exploration((2, 2), "cw", [proven()], "question")]), cfg.mel)
    memory = memory_of(4, store=before)
    memory.add(7, lessons)
    asyncio.run(memory.save(tmp_path))
    after = FakeStore()
    restored = memory_of(4, store=after)
    asyncio.run(restored.load(tmp_path))
    ((born, lesson),) = restored.entries
    assert born == 7
    old, new = (weigh_lessons([one], 1.0, "experience")[0] for one in (lessons[0], lesson))
    first, second = train_sequence(old, before.records), train_sequence(new, after.records)
    assert first.token_ids.tolist() == second.token_ids.tolist()
    assert first.mask.tolist() == second.mask.tolist()
    assert first.nll_weight.tolist() == second.nll_weight.tolist()


def test_a_checkpoint_without_lessons_leaves_the_memory_empty(tmp_path):
    asyncio.run(memory_of(4).save(tmp_path))
    assert list(tmp_path.iterdir()) == []
    restored = memory_of(4)
    restored.add(1, numbered(2))
    asyncio.run(restored.load(tmp_path))
    assert restored.entries == []
