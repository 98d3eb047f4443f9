"""records/: read-only, checked when built, and a ledger that must add up."""

import dataclasses

import numpy as np
import pytest

from mel_ray.records import Draft, DraftFate, DraftState, Ledger, Prompt, TrainSequence, TrajectoryFate, ledger
from mel_ray.records.seeds import derive_seed
from tests.unit.builders import draft, prompt, trajectory, verdict


def test_arrays_are_read_only_and_records_frozen():
    one = trajectory()
    with pytest.raises(ValueError):
        one.token_ids[0] = 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.text = "other"
    assert not hasattr(one, "__dict__")


def test_a_record_does_not_freeze_the_array_it_was_given():
    mine = np.array([1, 2, 3], dtype=np.int32)
    record = Prompt("q", "x", "y", mine)
    mine[0] = 9
    assert record.token_ids.tolist() == [1, 2, 3]


def test_lengths_are_checked():
    with pytest.raises(ValueError):
        dataclasses.replace(trajectory(4), logprobs=[-1.0])
    with pytest.raises(ValueError):
        Prompt("q", "x", "y", [])
    weights = {name: [0.0, 0.0] for name in ("pg_weight", "nll_weight", "advantages", "sampled_logprobs")}
    assert len(TrainSequence([1, 2, 3], 1, **weights).pg_weight) == 2
    for wrong in ({"completion_start": 2}, {"completion_start": 0}, {"token_ids": [[1, 2, 3]]}):
        with pytest.raises(ValueError):
            TrainSequence(**({"token_ids": [1, 2, 3], "completion_start": 1} | weights | wrong))


def test_a_parsed_draft_has_an_experience_and_no_other_has():
    assert draft(DraftState.PARSED).facts().completion_tokens == 5
    values = {field.name: getattr(draft(), field.name) for field in dataclasses.fields(Draft)}
    with pytest.raises(ValueError):
        Draft(**(values | {"experience": None}))


def test_verdicts_that_failed_carry_no_reward():
    judged = verdict(*"cwnte")
    assert judged.rewards == (1.0, 0.0, 0.0, None, None)
    assert judged.correct == (0,)
    assert judged.incorrect == (1, 2)
    assert judged.is_mixed
    assert not verdict(*"cct").is_mixed


def test_the_ledger_adds_up_or_refuses():
    kept = ledger([TrajectoryFate.TRAINED] * 2, [DraftFate.REPLAY_FAILED], (2, 1))
    total = kept + kept
    assert total.trajectories[TrajectoryFate.TRAINED] == 4
    assert total.is_balanced
    assert Ledger.from_dict(total.as_dict()) == total
    with pytest.raises(ValueError):
        ledger([TrajectoryFate.TRAINED], [], (2, 0))


def test_seeds_depend_on_every_part_and_fit_vllm():
    seeds = {derive_seed(run, step, "q", i) for run in range(3) for step in range(3) for i in range(8)}
    assert len(seeds) == 72
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert derive_seed(1, 2, "q", 3) == derive_seed(1, 2, "q", 3)
    assert prompt().question_id == "q"
