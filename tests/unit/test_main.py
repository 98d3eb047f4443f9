"""Training, up to where Ray starts: opening a run, continuing it, and refusing what cannot be continued."""

import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mel_ray.cli.app import BAD_REQUEST
from mel_ray.cli.check import requested_config
from mel_ray.cli.mel import main
from mel_ray.cli.train import check_lessons, check_questions, read_state
from mel_ray.config.load import compose_config, to_yaml
from mel_ray.config.plan import disk_bytes
from mel_ray.driver.state import RunState
from mel_ray.records.ledger import Ledger
from mel_ray.records.problem import ConfigError
from mel_ray.records.reports import STATE_FILE
from mel_ray.records.stored import StoredRecords
from mel_ray.run.folder import FORMAT, RunFolder, RunFolderError, open_run
from mel_ray.run.lease import only_driver
from mel_ray.run.resume import find_changes
from tests.unit.builders import exploration, prompt

WEIGHT_BYTES = 1000


def configured(tmp_path, *overrides):
    return compose_config([f"run.dir={tmp_path}", *overrides])


def stored_run(tmp_path, *overrides):
    """The configuration and folder of a run that has begun."""
    config, folder, _ = open_run(configured(tmp_path, *overrides), WEIGHT_BYTES)
    folder.config.write_text(to_yaml(config))
    return config, folder


def test_a_fresh_run_gets_a_fresh_name(tmp_path):
    first, folder, checkpoint = open_run(configured(tmp_path), WEIGHT_BYTES)
    second, _, _ = open_run(configured(tmp_path), WEIGHT_BYTES)
    assert first.run.name != second.run.name
    assert folder.path.name == first.run.name
    assert folder.format_file.read_text().strip() == str(FORMAT)
    assert checkpoint is None


def test_a_name_that_exists_is_refused_unless_it_is_continued(tmp_path):
    config, folder = stored_run(tmp_path, "run.name=mine")
    with pytest.raises(ConfigError, match="a run of this name exists"):
        open_run(configured(tmp_path, "run.name=mine"), WEIGHT_BYTES)
    assert open_run(configured(tmp_path, "run.name=mine", "run.resume=auto"), WEIGHT_BYTES)[2] is None
    saved = folder.checkpoints / "step-000005"
    saved.mkdir()
    RunState(step=5, position=80, version=5).write(saved)
    (folder.checkpoints / "latest").write_text("step-000005")
    _, _, checkpoint = open_run(configured(tmp_path, "run.name=mine", "run.resume=auto"), WEIGHT_BYTES)
    assert checkpoint == saved
    assert read_state(checkpoint, config) == RunState(5, 80, 5, Ledger())
    assert read_state(None, config).step == 0


@pytest.mark.parametrize("content", [None, f"{FORMAT + 1}\n", "\n"])
def test_a_folder_of_another_format_is_refused_with_a_sentence_and_left_alone(tmp_path, content):
    _, folder = stored_run(tmp_path, "run.name=old")
    if content is None:
        folder.format_file.unlink()  # as the first format was
    else:
        folder.format_file.write_text(content)
    before = sorted(path.name for path in folder.path.iterdir())
    with pytest.raises(ConfigError, match=r"has format .* can still be read") as refused:
        open_run(configured(tmp_path, "run.name=old", "run.resume=auto"), WEIGHT_BYTES)
    assert str(folder.path) in str(refused.value)
    assert sorted(path.name for path in folder.path.iterdir()) == before


def test_what_cannot_be_continued_is_a_sentence(tmp_path):
    config = configured(tmp_path, "run.steps=5")
    saved = tmp_path / "checkpoints" / "step-000005"
    saved.mkdir(parents=True)
    RunState(step=5).write(saved)
    assert read_state(saved, config).step == 5  # killed before its export: only that is left to do
    folder = RunFolder(tmp_path)
    folder.partial_export.mkdir()
    (folder.partial_export / "config.json").write_text("{}")
    assert read_state(saved, config).step == 5  # killed while it was exported
    folder.complete_export(4)
    assert read_state(saved, config).step == 5  # an export of an earlier end
    folder.partial_export.mkdir()
    folder.complete_export(5)
    assert (folder.exported_step, list(folder.export.iterdir())) == (5, [folder.export / "mel_ray.json"])
    with pytest.raises(ConfigError, match="already has 5 steps"):
        read_state(saved, config)
    (saved / STATE_FILE).write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_state(saved, config)


def test_a_continued_run_keeps_its_configuration(tmp_path):
    stored_run(tmp_path, "run.name=mine", "algorithm.lr=0.5", "mel.weight=0.7")
    again = requested_config([f"run.dir={tmp_path}", "run.name=mine", "run.resume=auto", "run.steps=77"])
    assert (again.algorithm.lr, again.mel.weight, again.run.steps) == (0.5, 0.7, 77)
    forced = requested_config([f"run.dir={tmp_path}", "run.name=mine", "run.resume=force", "run.steps=78"])
    assert (forced.algorithm.lr, forced.run.steps) == (0.5, 78)


def test_a_command_with_groups_that_is_given_again_asks_for_the_same(tmp_path):
    command = ["run.name=mine", "run.resume=auto", "algorithm=dapo", "algorithm.lr=0.5"]
    _, folder = stored_run(tmp_path, *command)
    again = requested_config([f"run.dir={tmp_path}", *command])
    assert find_changes(folder.config, again) == []


@pytest.mark.parametrize("damage", ["cut", "other", "numbers"])
def test_a_damaged_memory_of_lessons_is_found_before_anything_starts(tmp_path, damage):
    config, file = configured(tmp_path, "run.name=mine"), tmp_path / "step-000001" / "lessons.npz"
    check_lessons(None, config)
    file.parent.mkdir()
    check_lessons(file.parent, config)
    row = exploration((2, 2), "cw")[0]
    StoredRecords().write(file, ([(1, replace(row, ref=0, context=None))], ["record"]))
    check_lessons(file.parent, config)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-40])
    else:
        StoredRecords().write(file, [1] if damage == "other" else ([(1, replace(row, ref=1))], ["record"]))
    with pytest.raises(
        ConfigError, match=r"run\.resume=never: the checkpoint .* cannot be read \(lessons\.npz"
    ) as refused:
        check_lessons(file.parent, config)
    assert len(refused.value.problems) == 1


def test_a_wrong_request_leaves_no_folder(capsys, tmp_path):
    assert main(["train", "reward.function=nowhere:f", f"run.dir={tmp_path}"]) == BAD_REQUEST
    assert "the module 'nowhere' cannot be imported" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_needs_room_for_what_it_has_not_written_yet(tmp_path, monkeypatch):
    config, folder = stored_run(tmp_path, "run.name=mine", "checkpoint.keep=2")
    needed = disk_bytes(config, 1 << 20)
    for step in (1, 2):
        (folder.checkpoints / f"step-00000{step}").mkdir()
        (folder.checkpoints / f"step-00000{step}" / "weights").write_bytes(bytes(3 << 20))
    again = configured(tmp_path, "run.name=mine", "run.resume=auto")
    for free, is_enough in ((needed - (6 << 20), True), (needed - (6 << 20) - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        if is_enough:
            open_run(again, 1 << 20)
        else:
            with pytest.raises(ConfigError, match=r"needs about .* MiB more and its disk has"):
                open_run(again, 1 << 20)


def test_a_checkpoint_that_was_being_replaced_is_found(tmp_path):
    _, folder = stored_run(tmp_path, "run.name=mine")
    old = folder.checkpoints / ".step-000005.replaced"
    old.mkdir()
    RunState(step=5).write(old)
    assert open_run(configured(tmp_path, "run.name=mine", "run.resume=auto"), 0)[2].name == "step-000005"


def test_the_place_in_the_questions_is_that_of_the_same_questions(tmp_path):
    before, after = [prompt(question_id=name) for name in "abc"], [prompt(question_id=name) for name in "ac"]
    state = RunState(step=1)
    check_questions(state, before, configured(tmp_path, "run.name=mine"))
    folder = tmp_path / "step-000001"
    folder.mkdir()
    state.write(folder)
    again = RunState.read(folder)
    check_questions(again, before, configured(tmp_path, "run.name=mine"))
    with pytest.raises(
        ConfigError, match=r"its place in 3 questions \(\w+\), and with these keys there are 2 questions"
    ):
        check_questions(again, after, configured(tmp_path, "run.name=mine"))
    check_questions(again, after, configured(tmp_path, "run.name=mine", "run.resume=force"))


HOLD = """
import sys, pathlib
from mel_ray.run.lease import only_driver
with only_driver(pathlib.Path(sys.argv[1]) / "lock", 0.0, print):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_driver_at_a_time_writes_into_a_folder(tmp_path):
    told = []
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        is_writing = pytest.raises(RunFolderError, match=f"process {other.pid} on .* is still writing into")
        with is_writing, only_driver(tmp_path / "lock", 0.0, told.append):
            raise AssertionError("two drivers at once")
        other.kill()  # a lock ends with its process, however that ends
        with only_driver(tmp_path / "lock", 60.0, told.append):
            pass
