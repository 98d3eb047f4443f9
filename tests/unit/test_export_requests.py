"""`mel export` refuses what it cannot do in one sentence."""

import pytest

from mel_ray.cli.app import BAD_REQUEST
from mel_ray.cli.export import chosen_checkpoint
from mel_ray.cli.mel import main
from mel_ray.config.load import compose_config, to_yaml
from mel_ray.records.reports import STATE_FILE
from mel_ray.run.atomic import write_json
from mel_ray.run.folder import RunFolder


@pytest.fixture
def run(tmp_path):
    """A run folder with the checkpoints of steps 10 and 20, which are damaged, and an incomplete one."""
    (tmp_path / "config.yaml").write_text(to_yaml(compose_config()))
    for step in (10, 20):
        policy = tmp_path / "checkpoints" / f"step-{step:06d}" / "policy"
        policy.mkdir(parents=True)
        (policy.parent / STATE_FILE).write_text("{}")
        for kind in ("model", "optim"):
            (policy / f"zero_pp_rank_0_mp_rank_00_{kind}_states.pt").write_bytes(b"PK cut off")
    (tmp_path / "checkpoints" / ".step-000030.partial").mkdir()
    return tmp_path


def refused(capsys, *arguments) -> str:
    assert main(["export", *map(str, arguments)]) == BAD_REQUEST
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    return told.err


def test_no_run(tmp_path, capsys):
    assert refused(capsys, tmp_path / "none") == f"{tmp_path / 'none'}: not a run folder (no config.yaml)\n"


def test_no_checkpoint(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(to_yaml(compose_config()))
    assert "the run has no checkpoint yet" in refused(capsys, tmp_path)


def test_no_such_step(run, capsys):
    assert "no checkpoint after step 30; there are those after 10, 20" in refused(capsys, run, "--step", 30)
    assert "'last' is neither a step nor `best`" in refused(capsys, run, "--step", "last")


def test_the_best_step(run, capsys):
    assert "the run keeps no best checkpoint" in refused(capsys, run, "--step", "best")
    write_json(run / "checkpoints" / "best.json", {"checkpoint": "step-000010", "metric": "a/pass@1", "score": 0.5})
    assert chosen_checkpoint(RunFolder(run), "best").name == "step-000010"


def test_a_target_that_is_taken(run, capsys):
    (run / "mine").mkdir()
    (run / "mine" / "notes.txt").write_text("do not lose me")
    for taken in (run / "mine", run / "config.yaml"):
        assert f"{taken} exists" in refused(capsys, run, "--to", taken)


def test_a_damaged_checkpoint(run, capsys):
    told = refused(capsys, run, "--step", 10)
    assert "checkpoints/step-000010: the checkpoint cannot be read (" in told
    assert not list(run.glob("*export*"))
    for file in (run / "checkpoints" / "step-000020" / "policy").iterdir():
        file.unlink()
    assert "can't find *_model_states.pt files" in refused(capsys, run)


def test_a_model_that_is_gone(run, capsys):
    model = run / "moved"
    (run / "config.yaml").write_text(to_yaml(compose_config(["model=local", f"model.path={model}"])))
    assert "there is no such folder" in refused(capsys, run)
