"""actors/node_checks.py: what a node must find is named with the node that lacks it."""

import pytest

from mel_ray.actors.node_checks import Found, lacking_memory, look, problems_of
from mel_ray.config.bundles import Node
from mel_ray.config.plan import Machine
from mel_ray.data.model_folder import on_this_node
from mel_ray.records.problem import ConfigError, Problem

FIRST, SECOND = Node("first", 8, 8, "1"), Node("second", 8, 8, "2")


def test_a_node_says_what_it_finds(tmp_path):
    (tmp_path / "token").touch()
    found = look(on_this_node, str(tmp_path), str(tmp_path / "token"))
    assert (found.has_model, found.has_token) == (True, True)
    assert found.machine.memory > 1 << 30
    found = look(on_this_node, str(tmp_path / "gone"), str(tmp_path / "other"))
    assert (found.has_model, found.has_token) == (False, False)
    found = look(on_this_node, str(tmp_path), None)
    assert (found.has_model, found.has_token) == (True, True)


@pytest.mark.parametrize(
    ("second", "writers", "words"),
    [
        (Found(True, True), {SECOND}, []),
        (Found(False, True), {SECOND}, ["model.path=m: node second has no such folder"]),
        (Found(True, False), {SECOND}, ["run.dir=r: node second, which has policy ranks, sees another folder"]),
        (Found(True, False), {FIRST}, []),
        (Found(False, False), {SECOND}, ["model.path=m: node second", "run.dir=r: node second"]),
    ],
)
def test_what_a_node_lacks_is_a_sentence_with_its_name(second, writers, words):
    problems = problems_of({FIRST: Found(True, True), SECOND: second}, "m", "r", writers)
    assert len(problems) == len(words)
    for problem, expected in zip(problems, words, strict=True):
        assert str(problem).startswith(expected)


def test_a_snapshot_is_found_in_the_cache_of_the_node_that_looks(tmp_path, monkeypatch):
    asked = []

    def download(name, revision, local_files_only):
        asked.append((name, revision, local_files_only))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    there = tmp_path / "elsewhere" / "models--Qwen--Qwen3-8B-Base" / "snapshots" / "0123456789abcdef"
    assert on_this_node(there) == tmp_path
    assert asked == [("Qwen/Qwen3-8B-Base", "0123456789abcdef", True)]


def test_a_snapshot_or_folder_that_is_not_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    there = tmp_path / "models--Nobody--Nothing" / "snapshots" / "0123456789abcdef"
    with pytest.raises(ConfigError, match="cache lacks Nobody/Nothing"):
        on_this_node(there)
    with pytest.raises(ConfigError, match="no such folder on this node"):
        on_this_node(tmp_path / "gone")


def test_each_thing_that_nodes_lack_is_said_once():
    small, large = Machine(8, 8, memory=1.0), Machine(8, 8, memory=2.0)

    def judge(machine):
        return [Problem("cluster", None, "it needs 2 bytes", "use a larger one")] if machine.memory < 2 else []

    nodes = {
        FIRST: Found(True, True, large),
        SECOND: Found(True, True, small),
        Node("third", 8, 8, "3"): Found(True, True),
    }
    (problem,) = lacking_memory(nodes, judge)
    assert "on node second it needs 2 bytes" in str(problem)
