"""run/scrub.py: what the environment keeps secret is in no file of a run."""

import json

import pytest

from mel_ray.cli.app import failed
from mel_ray.config.load import compose_config
from mel_ray.records.incident import Incident, IncidentKind
from mel_ray.run.closing import write_closing
from mel_ray.run.console import incident_line
from mel_ray.run.folder import RunFolder
from mel_ray.run.metrics_file import MetricsFile
from mel_ray.run.scrub import HIDDEN, known_secrets, scrub

SECRET = "hf_0123456789abcdef"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("SHORT_KEY", "1234567")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", __file__)
    monkeypatch.setenv("PGPASSWORD", "correct horse")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "/9j4AAQSkZJRgABAQ")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "certainly")


def test_what_is_a_secret():
    found = known_secrets()
    assert {SECRET, "correct horse", "/9j4AAQSkZJRgABAQ"} <= set(found)
    assert not {"1234567", __file__, "certainly"} & set(found)
    assert scrub(f"Bearer {SECRET}, 1234567, certainly") == f"Bearer {HIDDEN}, 1234567, certainly"


def test_no_file_of_a_run_holds_it(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.prepare(0)
    MetricsFile(folder).incident(Incident(IncidentKind.LOST, "rollout-0", f"401 for {SECRET}"))
    (folder.logs / "rollout-0.log").write_bytes(b"\xff GET https://user:" + SECRET.encode() + b"@host\n")
    ended = failed(RuntimeError(f"refused {SECRET}"), "stopped", folder.logs / "driver.log")
    write_closing(folder, "failed", 1.0)
    assert str(ended).startswith(f"mel_ray stopped: refused {HIDDEN}")
    files = [file for file in folder.path.rglob("*") if file.is_file()]
    assert len(files) >= 4
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]
    assert (folder.logs / "rollout-0.log").read_bytes() == f"\udcff GET https://user:{HIDDEN}@host\n".encode(
        errors="surrogateescape"
    )
    assert json.loads(folder.incidents.read_text())["text"] == f"401 for {HIDDEN}"
    assert incident_line(Incident(IncidentKind.LOST, "rollout-0", f"401 for {SECRET}")).endswith(f"401 for {HIDDEN}")
    assert SECRET not in compose_config().model_dump_json()
