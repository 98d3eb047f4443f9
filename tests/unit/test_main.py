"""main: opening a run, continuing it, and refusing what cannot be continued."""

import pytest

from mel_ray.config.load import compose_config, to_yaml
from mel_ray.records.problem import ConfigError
from mel_ray.driver.state import DriverState
from mel_ray.cli.train import BAD_REQUEST, DONE, main, open_run, read_state, requested_config
from mel_ray.data.prepare import prepare


@pytest.fixture(scope="module")
def prepared():
    return prepare(compose_config())


def configured(tmp_path, *overrides):
    return compose_config([f"run.dir={tmp_path}", *overrides])


def test_a_fresh_run_gets_a_fresh_name_and_its_configuration(tmp_path, prepared):
    first, folder, checkpoint = open_run(configured(tmp_path), prepared)
    second, _, _ = open_run(configured(tmp_path), prepared)
    assert first.run.name != second.run.name
    assert folder.path.name == first.run.name
    assert checkpoint is None


def test_a_name_that_exists_is_refused_unless_it_is_continued(tmp_path, prepared):
    config, folder, _ = open_run(configured(tmp_path, "run.name=mine"), prepared)
    folder.config.write_text(to_yaml(config))
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
    saved = tmp_path / "checkpoints" / "step-000005"
    saved.mkdir(parents=True)
    DriverState(step=5).write(saved / "driver.json")
    assert read_state(saved, config).step == 5  # killed before its export: only that is left to do
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="already has 5 steps"):
        read_state(saved, config)
    (saved / "driver.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_state(saved, config)


def test_a_continued_run_keeps_its_configuration(tmp_path, prepared):
    config, folder, _ = open_run(configured(tmp_path, "run.name=mine", "algorithm.lr=0.5", "mel.weight=0.7"), prepared)
    folder.config.write_text(to_yaml(config))
    again = requested_config([f"run.dir={tmp_path}", "run.name=mine", "run.resume=auto", "run.steps=77"])
    assert (again.algorithm.lr, again.mel.weight, again.run.steps) == (0.5, 0.7, 77)
    with pytest.raises(ConfigError, match="keeps its groups"):
        requested_config([f"run.dir={tmp_path}", "run.name=mine", "run.resume=auto", "mel=off"])


def test_help_and_wrong_requests(capsys, tmp_path):
    assert main(["--help"]) == DONE
    assert "Exit codes" in capsys.readouterr().out
    assert main(["reward.function=nowhere:f", f"run.dir={tmp_path}"]) == BAD_REQUEST
    assert "the module 'nowhere' cannot be imported" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
