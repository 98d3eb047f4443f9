"""records/: read-only, checked when built, and a ledger that must add up."""

import dataclasses

import numpy as np
import pytest

from mel_ray.records.experience import Draft, DraftState
from mel_ray.records.ledger import DraftFate, Ledger, TrajectoryFate
from mel_ray.records.problem import counted
from mel_ray.records.question import Question, Truth
from mel_ray.records.row import (
    RowKind,
    attempts,
    correct,
    count_fates,
    drafts,
    incorrect,
    is_mixed,
    row_of_draft,
    rows_of_group,
)
from mel_ray.records.step import OptimizerStep, TrainSequence
from mel_ray.records.trajectory import Group, Prompt, derive_seed, frozen
from tests.unit.builders import draft, draft_row, exploration, prompt, trajectory, turns


def test_arrays_are_read_only_and_records_frozen():
    one = trajectory()
    with pytest.raises(ValueError):
        one.token_ids[0] = 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.text = "other"
    assert not hasattr(one, "__dict__")


def test_a_record_does_not_freeze_the_array_it_was_given():
    mine = np.array([1, 2, 3], dtype=np.int32)
    record = Prompt(Question("x", Truth("y")), mine)
    mine[0] = 9
    assert record.token_ids.tolist() == [1, 2, 3]


def test_an_array_has_one_dimension():
    with pytest.raises(ValueError, match="one dimension"):
        frozen([[1, 2], [3, 4]], np.int32)


@pytest.mark.parametrize("name", ["mask", "logprobs", "versions"])
def test_every_array_of_a_trajectory_is_aligned_with_its_tokens(name):
    with pytest.raises(ValueError, match=f"4 tokens but 1 {name}"):
        dataclasses.replace(trajectory(4), **{name: [1]})


def test_a_single_turn_is_the_masks_simplest_case():
    one = trajectory(3, version=7)
    assert (one.mask.tolist(), one.versions.tolist(), one.weight_version) == ([True] * 3, [7] * 3, 7)
    several = turns([1, 1, 0, 1], versions=[7, 7, 7, 8])
    assert several.weight_version == 8
    assert trajectory(0).weight_version == -1


WEIGHTS = {name: [0.0, 0.0] for name in ("pg_weight", "nll_weight", "advantages", "sampled_logprobs")}


@pytest.mark.parametrize(
    "wrong",
    [
        {"mask": [0, 0, 1]},  # one trained token, two weights
        {"mask": [1, 0, 1]},  # nothing predicts the first token
        {"mask": [0, 1]},
        {"token_ids": [[1, 2, 3]]},
        {"old_logprobs": [-1.0]},
        {"versions": [1]},
        {"reference_logprobs": [-1.0] * 3},
    ],
)
def test_a_sequence_that_does_not_fit_its_mask_is_refused(wrong):
    fitting = {"token_ids": [1, 2, 3], "mask": [0, 1, 1], **WEIGHTS}
    assert len(TrainSequence(**fitting).pg_weight) == 2
    with pytest.raises(ValueError):
        TrainSequence(**(fitting | wrong))


def test_a_prompt_has_tokens():
    with pytest.raises(ValueError, match="no tokens"):
        Prompt(Question("x", Truth("y")), [])


def test_gradients_of_mixed_microbatches_cannot_be_balanced():
    with pytest.raises(ValueError):
        OptimizerStep(((),), balance=0.3)


def test_a_row_knows_the_lengths_of_its_trajectory_and_whether_another_is_the_same():
    several = turns([1, 0, 0, 1, 1], versions=[3, 3, 3, 4, 4])
    first, second, third = rows_of_group(Group(prompt(tokens=3), (several, trajectory(2), several)))
    assert (first.prompt_tokens, first.tokens, first.trained_tokens, first.length) == (3, 5, 3, 8)
    assert (first.versions, second.versions) == ((3, 4), (1, 1))
    assert first.digest == third.digest != second.digest
    assert [first.index, second.index, third.index] == [0, 1, 2]


def test_a_parsed_draft_has_an_experience_and_no_other_has():
    values = {field.name: getattr(draft(), field.name) for field in dataclasses.fields(Draft)}
    with pytest.raises(ValueError):
        Draft(**(values | {"experience": None}))


def test_the_row_of_a_draft():
    parsed = row_of_draft(draft(length=5, context=7), 2)
    assert (parsed.kind, parsed.index, parsed.prompt_tokens, parsed.tokens) == (RowKind.DRAFT, 2, 7, 5)
    assert (parsed.state, parsed.fate, parsed.heuristics) == (DraftState.PARSED, None, (0, 5))
    rejected = row_of_draft(draft(DraftState.LEAKED_ANSWER), 0)
    assert rejected.fate is DraftFate.LEAKED_ANSWER
    skipped = row_of_draft(dataclasses.replace(draft(DraftState.CONTEXT_TOO_LONG), written=None), 1)
    assert (skipped.index, skipped.length, skipped.fate) == (1, 0, DraftFate.CONTEXT_TOO_LONG)


def test_every_rejection_names_its_fate():
    assert {state.fate for state in DraftState} == {
        None, DraftFate.TRUNCATED, DraftFate.PARSE_FAILURE, DraftFate.LEAKED_ANSWER, DraftFate.CONTEXT_TOO_LONG,
    }  # fmt: skip


def test_verdicts_that_failed_carry_no_reward():
    rows = exploration((1,) * 5, "cwnte", [draft_row()])
    assert [row.verdict.reward for row in attempts(rows)] == [1.0, 0.0, 0.0, None, None]
    assert (correct(rows), incorrect(rows)) == ([0], [1, 2])
    assert is_mixed(rows)
    assert not is_mixed(exploration((1,) * 3, "cct"))
    assert len(drafts(rows)) == 1


def test_whether_a_group_is_mixed_is_said_of_its_attempts():
    replays = tuple(dataclasses.replace(row, kind=RowKind.REPLAY) for row in exploration((1, 1), "cw"))
    assert not is_mixed((*exploration((1, 1), "cc"), *replays))


def test_the_ledger_adds_up_or_refuses():
    first, second = exploration((1, 1), "cw")
    rows = [dataclasses.replace(first, fate=TrajectoryFate.TRAINED)] * 2
    rows += [dataclasses.replace(draft_row(), fate=DraftFate.REPLAY_FAILED)]
    kept = count_fates(rows)
    total = kept + kept
    assert total.trajectories[TrajectoryFate.TRAINED] == 4
    assert (total.sampled_trajectories, total.sampled_drafts) == (4, 2)
    assert total.is_balanced
    assert Ledger.from_dict(total.as_dict()) == total
    with pytest.raises(ValueError):
        count_fates([*rows, second])


def test_seeds_depend_on_every_part_and_fit_vllm():
    seeds = {derive_seed(run, step, "q", i) for run in range(3) for step in range(3) for i in range(8)}
    assert len(seeds) == 72
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert derive_seed(1, 2, "q", 3) == derive_seed(1, 2, "q", 3)


def test_counts_have_a_singular():
    assert [counted(number, "question") for number in range(3)] == ["0 questions", "1 question", "2 questions"]
    assert counted(1, "trajectory", "trajectories") == "1 trajectory"
    assert counted(2, "trajectory", "trajectories") == "2 trajectories"
