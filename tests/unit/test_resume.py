"""run/resume.py: what changed since a run was begun is listed, and what it does not survive is refused."""

import pytest

from mel_ray.cli.check import requested_config
from mel_ray.cli.mel import main
from mel_ray.config.load import compose_config, to_yaml
from mel_ray.driver.state import RunState
from mel_ray.records.problem import ConfigError
from mel_ray.records.reports import STATE_FILE
from mel_ray.run.folder import find_run_problems, open_run
from mel_ray.run.resume import SHOWN, change_lines, find_changes
from mel_ray.run.scrub import HIDDEN, scrub

SOURCES = "data.train=[{name: a, count: 5, weight: 2}, {name: b, path: b.jsonl, where: {level: 3}}]"


def stored(tmp_path, *overrides):
    """config.yaml of a run named `mine` that has a checkpoint."""
    config, folder, _ = open_run(compose_config([f"run.dir={tmp_path}", "run.name=mine", *overrides]), 0)
    folder.config.write_text(scrub(to_yaml(config)))
    saved = folder.checkpoints / "step-000005"
    saved.mkdir()
    RunState(step=5).write(saved)
    return folder.config


def asked(tmp_path, *overrides):
    return compose_config([f"run.dir={tmp_path}", "run.name=mine", "run.resume=auto", *overrides])


@pytest.mark.parametrize(
    "words", [(), ("model=qwen3_8b_base", "cluster=2x8"), ("preset=trl_dapo",), (SOURCES,),
              ("data.prompt='{{ question }}\nNow: $'", "reward.parts={correct: 1, format: 0.2}")],
)  # fmt: skip
def test_the_same_request_changes_nothing(tmp_path, words):
    file = stored(tmp_path, *words)
    assert change_lines(file, asked(tmp_path, *words)) == []
    assert find_run_problems(asked(tmp_path, *words)) == []


def test_every_change_is_a_line(tmp_path):
    file = stored(tmp_path, SOURCES, "reward.parts={correct: 1}", "mel.weight=0.5")
    config = asked(
        tmp_path, SOURCES.replace("weight: 2", "weight: 3").replace("level: 3", "level: 4"), "mel.enabled=false",
        "mel.weight=0.5", "reward.parts={correct: 1, format: 0.2}", "rollout.group_size=4", "run.steps=99",
        "model.system_prompt='a\nb'", "run.replay_order=other",
    )  # fmt: skip
    lines = change_lines(file, config)
    assert lines[:4] == [
        "run.steps: 40 -> 99",
        "run.replay_order: null -> other",
        "model.system_prompt: null -> a\\nb",
        "data.train[0].weight: 2.0 -> 3.0",
    ]
    assert "data.train[1].where: {'level': 3} -> {'level': 4}" in lines
    assert "mel.enabled: true -> false" in lines
    assert "rollout.group_size: 8 -> 4" in lines
    assert any(line.startswith("reward.parts: {'correct'") for line in lines)
    assert len(lines) == 8


def test_a_long_list_of_changes_is_cut(tmp_path):
    file = stored(tmp_path)
    config = asked(tmp_path, "model=qwen3_8b_base", "cluster=2x8")
    count = len(find_changes(file, config))
    lines = change_lines(file, config)
    assert count > SHOWN
    assert lines[SHOWN:] == [f"and {count - SHOWN} more"]


REFUSED = {
    "model.path": "model.path=other",
    "model.dtype": "model.dtype=bfloat16",
    "cluster.policy.lora.rank": "cluster.policy.lora.rank=4",
    "run.seed": "run.seed=1",
    "data.prompt": "data.prompt='{{ question }}!'",
    "data.train.count": "data.train.count=3",
    "data.train": SOURCES,
    "reward.function": "reward.function=mine:f",
}


@pytest.mark.parametrize(("key", "override"), REFUSED.items())
def test_what_a_run_does_not_survive_is_refused_unless_forced(tmp_path, key, override):
    stored(tmp_path)
    (problem,) = find_run_problems(asked(tmp_path, override))
    assert problem.path == key
    assert "run mine had " in problem.why
    assert str(problem).endswith("Give the value it had, begin a run of another name, or set run.resume=force.")
    with pytest.raises(ConfigError, match=r"set run\.resume=force"):
        open_run(asked(tmp_path, override), 0)
    assert find_run_problems(asked(tmp_path, override, "run.resume=force")) == []
    assert open_run(asked(tmp_path, override, "run.resume=force"), 0)[2] is not None


def test_there_is_a_problem_for_every_key(tmp_path):
    stored(tmp_path)
    assert [one.path for one in find_run_problems(asked(tmp_path, "run.seed=1", "model.path=other"))] == [
        "run.seed", "model.path",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "override", ["algorithm=dapo", "rollout.group_size=4", "mel.memory.size=3", "cluster.rollout.engines=3"]
)
def test_other_changes_are_allowed(tmp_path, override):
    file = stored(tmp_path)
    assert find_run_problems(asked(tmp_path, override)) == []
    assert change_lines(file, asked(tmp_path, override))


def test_a_run_without_a_checkpoint_starts_again_under_any_configuration(tmp_path):
    file = stored(tmp_path)
    (file.parent / "checkpoints" / "step-000005" / STATE_FILE).unlink()
    assert find_run_problems(asked(tmp_path, "run.seed=1")) == []
    assert change_lines(file, asked(tmp_path, "run.seed=1")) == ["run.seed: 0 -> 1"]


def test_keys_that_only_one_version_knows_say_nothing(tmp_path):
    file = stored(tmp_path, SOURCES)
    lines = [line for line in file.read_text().splitlines() if "max_age" not in line and "hub_files" not in line]
    file.write_text("\n".join(lines).replace("  dtype:", "  gone: 3\n  dtype:") + "\nold_section: {key: 1}\n")
    assert find_changes(file, asked(tmp_path, SOURCES)) == []


@pytest.mark.parametrize("text", ["a: [", "- 1", "run: 3"])
def test_a_stored_configuration_that_cannot_be_read_is_a_problem(tmp_path, text):
    file = stored(tmp_path)
    file.write_text(text)
    (problem,) = find_run_problems(asked(tmp_path))
    assert "cannot be read" in problem.why
    assert find_run_problems(asked(tmp_path, "run.resume=force")) == []
    assert change_lines(file, asked(tmp_path)) == []


def test_the_check_lists_changes_and_refuses(tmp_path, capsys):
    stored(tmp_path)
    words = ["check", f"run.dir={tmp_path}", "run.name=mine", "run.resume=auto"]
    assert main([*words, "rollout.group_size=4"]) == 0
    assert "\nrollout.group_size: 8 -> 4\n" in capsys.readouterr().out
    assert main([*words, "run.seed=1"]) == 2
    assert "run.seed=1: run mine had 0, and" in capsys.readouterr().err


def test_a_secret_in_a_value_is_neither_stored_nor_shown_nor_missed(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789abcdef")
    secret = "observe.wandb_project=mine-hf_0123456789abcdef"
    file = stored(tmp_path, secret)
    assert "hf_01" not in file.read_text()
    assert change_lines(file, asked(tmp_path, secret)) == []
    assert change_lines(file, asked(tmp_path, "observe.wandb_project=other")) == [
        f"observe.wandb_project: mine-{HIDDEN} -> other"
    ]
    words = [f"run.dir={tmp_path}", "run.name=mine", "run.resume=auto"]
    with pytest.raises(ConfigError, match=r"does not hold the secret"):
        requested_config(words)
    assert requested_config([*words, secret]).observe.wandb_project == "mine-hf_0123456789abcdef"
