"""records/stored.py: what is written comes back, and a file cannot run code or make up kinds."""

import json
import pickle
from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mel_ray.records.question import Message, Question, Truth
from mel_ray.records.row import RowKind
from mel_ray.records.stored import STRUCTURE, StoredRecords
from mel_ray.records.trajectory import FinishReason, Group, Prompt, Trajectory
from mel_ray.records.verdict import Outcome, Verdict
from tests.unit.builders import exploration

COLUMNS = {
    "when": datetime(2026, 1, 2, 3, 4, 5), "day": date(2026, 1, 2), "for": timedelta(seconds=1.5), "raw": b"\x00\xff",
    "price": Decimal("1.10"), "id": UUID(int=7), "list": [1, (2, None)], "nested": {"a": {"b": True}}, "none": None,
}  # fmt: skip


def roundtrip(tmp_path, value, *kinds):
    file = tmp_path / "file.npz"
    StoredRecords(*kinds).write(file, value)
    return StoredRecords(*kinds).read(file)


def test_a_group_with_everything_in_it_comes_back(tmp_path):
    question = Question("x?", Truth("1", ("2",), (0.1, 0.2), ("a", "b")), (Message("user", "hi"),), "s", COLUMNS, "q")
    one = Trajectory.of_one_turn([3, 4, 5], [-0.1, -0.2, -0.3], "text \ud7ff", FinishReason.LENGTH, 7, [1, 1, 2])
    group = Group(Prompt(question, np.arange(1, 5)), (one, one))
    found = roundtrip(tmp_path, [group])[0]
    assert found.prompt.question == question
    for name in ("token_ids", "mask", "logprobs", "versions"):
        expected, got = getattr(one, name), getattr(found.trajectories[1], name)
        assert got.dtype == expected.dtype
        assert np.array_equal(got, expected)
        assert not got.flags.writeable
    assert (found.trajectories[0].text, found.trajectories[0].finish_reason) == (one.text, FinishReason.LENGTH)


def test_rows_come_back_equal(tmp_path):
    rows = exploration((4, 7), "cw", question_id="q", ref=3)
    assert roundtrip(tmp_path, rows) == rows
    assert rows[0].kind is RowKind.ATTEMPT


def test_verdicts_and_enumerations_keep_their_kind(tmp_path):
    found = roundtrip(tmp_path, (Verdict(Outcome.TIMEOUT, parts={"a": 0.5}), Outcome.CORRECT))
    assert found == (Verdict(Outcome.TIMEOUT, parts={"a": 0.5}), Outcome.CORRECT)
    assert type(found[1]) is Outcome


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)  # fmt: skip


@given(PLAIN)
def test_plain_values_come_back(tmp_path_factory, value):
    assert roundtrip(tmp_path_factory.mktemp("stored"), value) == value


def test_what_is_of_no_known_kind_is_not_written(tmp_path):
    class Other:
        pass

    for value in (Other(), [Other()], {1, 2}, np.array([Other()], dtype=object)):
        with pytest.raises(TypeError, match="cannot be stored"):
            StoredRecords().write(tmp_path / "file.npz", value)


class Runs:
    """What a pickle would run when it is read."""

    ran = False

    def __reduce__(self):
        return (setattr, (Runs, "ran", True))


def test_a_file_that_would_run_code_is_an_error_and_runs_none(tmp_path):
    file = tmp_path / "file.npz"
    structure = np.frombuffer(json.dumps({"array": "|O", "start": 0, "shape": [1]}).encode(), np.uint8)
    with file.open("wb") as stream:
        np.savez(stream, **{STRUCTURE: structure, "|O": np.array([Runs()], dtype=object)})
    with pytest.raises(ValueError, match=r"file\.npz"):
        StoredRecords().read(file)
    file.write_bytes(pickle.dumps(Runs()))
    with pytest.raises(ValueError, match=r"file\.npz"):
        StoredRecords().read(file)
    assert not Runs.ran


@pytest.mark.parametrize(
    "structure",
    [{"is": "Popen", "of": {"args": "ls"}}, {"enum": "Outcome", "value": "made up"}, {"is": "Row", "of": {}},
     {"eval": "1"}, {"array": "<f4", "start": 0, "shape": [9]}, {"text": "eval", "value": "1"},
     {"is": "Truth", "of": {"no": 1}}],
)  # fmt: skip
def test_a_structure_that_names_something_else_is_an_error(tmp_path, structure):
    file = tmp_path / "file.npz"
    with file.open("wb") as stream:
        np.savez(stream, **{STRUCTURE: np.frombuffer(json.dumps(structure).encode(), np.uint8)})
    with pytest.raises(ValueError, match=r"file\.npz"):
        StoredRecords().read(file)


def test_a_file_that_was_cut_is_an_error(tmp_path):
    file = tmp_path / "file.npz"
    StoredRecords().write(file, exploration((4, 7), "cw"))
    data = file.read_bytes()
    for size in (0, 10, len(data) // 2, len(data) - 30):
        file.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"file\.npz"):
            StoredRecords().read(file)
