"""main: opening a run, continuing it, and refusing what cannot be continued."""

import pytest

from mel_ray.config.load import compose_config
from mel_ray.config.problems import ConfigError
from mel_ray.driver.state import DriverState
from mel_ray.main import BAD_REQUEST, DONE, main, open_run, read_state
from mel_ray.prepare import prepare


@pytest.fixture(scope="module")
def prepared():
    return prepare(compose_config())


def configured(tmp_path, *overrides):
    return compose_config([f"run.dir={tmp_path}", *overrides])


def test_a_fresh_run_gets_a_fresh_name_and_its_configuration(tmp_path, prepared):
    first, folder, checkpoint = open_run(configured(tmp_path), prepared)
    second, _, _ = open_run(configured(tmp_path), prepared)
    assert first.run.name != second.run.name
    assert f"name: {first.run.name}" in folder.config.read_text()
    assert checkpoint is None


def test_a_name_that_exists_is_refused_unless_it_is_continued(tmp_path, prepared):
    config, folder, _ = open_run(configured(tmp_path, "run.name=mine"), prepared)
    with pytest.raises(ConfigError, match="a run of this name exists"):
        open_run(configured(tmp_path, "run.name=mine"), prepared)
    assert open_run(configured(tmp_path, "run.name=mine", "run.resume=auto"), prepared)[2] is None
    saved = folder.checkpoints / "step-000005"
    saved.mkdir()
    DriverState(step=5, position=80, version=5).write(saved / "driver.json")
    (folder.checkpoints / "latest").write_text("step-000005")
    _, _, checkpoint = open_run(configured(tmp_path, "run.name=mine", "run.resume=auto"), prepared)
    assert checkpoint == saved
    assert read_state(checkpoint, config).position == 80
    assert read_state(None, config).step == 0


def test_what_cannot_be_continued_is_a_sentence(tmp_path):
    config = configured(tmp_path, "run.steps=5")
    DriverState(step=5).write(tmp_path / "driver.json")
    with pytest.raises(ConfigError, match="already has 5 steps"):
        read_state(tmp_path, config)
    (tmp_path / "driver.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_state(tmp_path, config)


def test_help_and_wrong_requests(capsys, tmp_path):
    assert main(["--help"]) == DONE
    assert "Exit codes" in capsys.readouterr().out
    assert main(["reward.function=nowhere:f", f"run.dir={tmp_path}"]) == BAD_REQUEST
    assert "the module 'nowhere' cannot be imported" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
