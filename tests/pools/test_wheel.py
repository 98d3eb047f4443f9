"""An installed package works from an empty folder: the wheel is built, installed in a fresh folder, and trains."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mel_ray.run.metrics_file import read_metrics

ROOT = Path(__file__).resolve().parents[2]
TRAVELS = (
    "conf/config.yaml",
    "conf/mel/template/paper.yaml",
    "run/report.html.j2",
    "data/world/base_model/model.safetensors",
)
# One module of each pool, of the driver, and of the judging children, which are processes of their own.
RUNS = ("rollout/vllm_engine.py", "rewards/child.py", "mel/writer.py", "policy/zero3.py", "driver/loop.py")


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", *map(str, arguments), "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    (file,) = folder.glob("mel_ray-*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--no-compile", "--target", folder, wheel)
    return folder


def run(installed: Path, cwd: Path, *command: str | Path) -> str:
    """The output of a command that finds the installed package before the repository."""
    dropped = ("RAY_ADDRESS", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONSAFEPATH")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    environment["PYTHONPATH"] = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_and_its_files_and_nothing_else(wheel):
    held = zipfile.ZipFile(wheel).namelist()
    assert {f"mel_ray/{name}" for name in TRAVELS} <= set(held)
    assert {path.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*.yaml")} == {
        name.removeprefix("mel_ray/conf/") for name in held if name.startswith("mel_ray/conf/")
    }
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "mel_ray").rglob("*.py")}
    assert sources == {name for name in held if name.endswith(".py")}
    assert {name.split("/")[0].removesuffix(".dist-info") for name in held} == {"mel_ray", wheel.name.split("-py3")[0]}


def test_an_installed_package_checks_explains_and_trains_from_an_empty_folder(installed, tmp_path):
    where = run(installed, tmp_path, sys.executable, "-c", "import mel_ray; print(mel_ray.__file__)")
    assert Path(where.strip()) == installed / "mel_ray" / "__init__.py"
    assert "no problems found" in run(installed, tmp_path, sys.executable, "-m", "mel_ray.main", "--check")
    assert "rollout.group_size" in run(installed, tmp_path, installed / "bin" / "mel", "keys", "group_size")
    demo = ["run.name=demo", "run.steps=2", "rollout.prompts_per_step=4", "eval.before=false", "eval.after=false"]
    told = run(installed, tmp_path, sys.executable, "-m", "mel_ray.main", *demo)
    folder = tmp_path / "runs" / "demo"
    assert f"run folder: {folder}" in told
    assert [row["step"] for row in read_metrics(folder / "metrics.jsonl")] == [1, 2]
    assert (folder / "export" / "config.json").exists()
    assert list((folder / "export").glob("*.safetensors"))
    assert (folder / "report.html").exists()
    for name in RUNS:  # Python left its bytecode next to the source that it ran
        source = installed / "mel_ray" / name
        assert list((source.parent / "__pycache__").glob(f"{source.stem}.*.pyc")), f"{name} ran from elsewhere"
