"""The command itself, as a user runs it: a few steps, the run folder, interruption, resume, wrong requests."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from mel_ray.config.load import validate
from mel_ray.run.metrics_file import read_metrics

SMALL = ["rollout.prompts_per_step=6", "eval.samples=2", "eval.every=0", "observe.trajectories=1.0"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mel_ray.main", *map(str, arguments)]


def run(*arguments: str, timeout: float = 240) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=timeout, env=environment)


def open_files(process: Path) -> set[str]:
    """What a process of /proc has open; nothing if it is gone or not ours."""
    try:
        return {os.readlink(descriptor) for descriptor in (process / "fd").iterdir()}
    except OSError:
        return set()


def processes_using(folder: Path) -> list[int]:
    """Processes that have a file below `folder` open: a run's actors hold their logs."""
    everyone = Path("/proc").glob("[0-9]*")
    return [int(p.name) for p in everyone if any(file.startswith(str(folder)) for file in open_files(p))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs")
    overrides = [f"run.dir={directory}", "run.name=first", "run.steps=2", "checkpoint.every=1", "observe.wandb=offline"]
    done = run(*overrides, *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory / "first", done


def test_the_run_folder_holds_what_it_promises(finished):
    folder, done = finished
    promised = {"config.yaml", "metrics.jsonl", "experiences", "trajectories", "eval", "checkpoints", "export"}
    assert promised | {"summary.json", "report.html", "wandb"} <= {path.name for path in folder.iterdir()}
    assert validate(yaml.safe_load((folder / "config.yaml").read_text())).run.name == "first"
    steps = [row for row in read_metrics(folder / "metrics.jsonl") if "reward/mean" in row]
    assert [row["step"] for row in steps] == [1, 2]
    stable = ["group/mixed_share", "mel/pairs", "mel/parsed", "mel/kept", "mel/retention", "loss/policy", "loss/joint",
              "policy/entropy", "policy/clip_share", "mismatch/kl", "tokens/rollout", "tokens/experience", "time/step",
              "time/explore", "time/train", "time/publish", "engine/busy_share"]  # fmt: skip
    assert all(name in row for row in steps for name in stable)
    assert all(abs(row["mismatch/max"]) < 1e-3 for row in steps)
    assert str(folder / "report.html") in done.stdout


def test_every_sample_has_exactly_one_fate(finished):
    folder, _ = finished
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "done"
    assert summary["ledger_balanced"]
    assert summary["ledger"]["trajectories"]["sampled"] == 2 * 6 * 8
    experiences = [row for file in (folder / "experiences").iterdir() for row in pq.read_table(file).to_pylist()]
    assert len(experiences) == summary["ledger"]["drafts"]["sampled"]
    assert sum(row["kept"] for row in experiences) == summary["ledger"]["drafts"]["trained"]
    for row in experiences:
        assert row["question"]
        assert row["correct"] != row["incorrect"]
        if row["kept"]:
            assert row["bifurcation"]
            assert row["heuristics"]
            assert row["replay_verdicts"] == ["correct"]
    trajectories = [row for file in (folder / "trajectories").iterdir() for row in pq.read_table(file).to_pylist()]
    assert len(trajectories) == 2 * 6 * 8


def test_the_export_is_a_model_that_transformers_loads(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _ = finished
    base = Path(__file__).parents[2] / "mel_ray/data/world/base_model"
    tokenizer = AutoTokenizer.from_pretrained(folder / "export")
    trained = AutoModelForCausalLM.from_pretrained(folder / "export", dtype=torch.float32)
    untrained = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    ids = tokenizer("Problem: Compute 3 + 4 * 5.", return_tensors="pt").input_ids
    with torch.no_grad():
        change = (trained(ids).logits - untrained(ids).logits).abs().max()
    assert 0 < float(change) < 5


def test_a_finished_name_is_refused_and_more_steps_continue_it(finished):
    folder, _ = finished
    refused = run(f"run.dir={folder.parent}", "run.name=first")
    assert refused.returncode == 2
    assert "a run of this name exists" in refused.stderr
    nothing_to_do = run(f"run.dir={folder.parent}", "run.name=first", "run.resume=auto", "run.steps=2")
    assert nothing_to_do.returncode == 2
    assert "already has 2 steps" in nothing_to_do.stderr
    more = run(
        f"run.dir={folder.parent}", "run.name=first", "run.resume=auto", "run.steps=3", "observe.wandb=offline", *SMALL
    )
    assert more.returncode == 0, more.stderr
    assert "continuing after step 2" in more.stdout
    steps = [row["step"] for row in read_metrics(folder / "metrics.jsonl") if "reward/mean" in row]
    assert steps == [1, 2, 3]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["ledger"]["trajectories"]["sampled"] == 3 * 6 * 8


def test_the_same_seed_samples_the_same_first_step_with_and_without_mel(tmp_path):
    texts = {}
    for name, enabled in (("mel", "true"), ("grpo", "false")):
        overrides = [f"run.dir={tmp_path}", f"run.name={name}", f"mel.enabled={enabled}", "run.steps=1",
                     "eval.before=false", "eval.after=false"]  # fmt: skip
        done = run(*overrides, *SMALL)
        assert done.returncode == 0, done.stderr
        rows = pq.read_table(tmp_path / name / "trajectories" / "step-000001.parquet").to_pylist()
        texts[name] = [(row["question"], row["seed"], row["response"]) for row in rows]
    assert texts["mel"] == texts["grpo"]
    assert not list((tmp_path / "grpo" / "experiences").iterdir())


def test_ctrl_c_leaves_a_complete_folder_and_no_process(tmp_path):
    overrides = [f"run.dir={tmp_path}", "run.name=cut", "run.steps=500", "eval.before=false", *SMALL]
    process = subprocess.Popen(
        command(*overrides), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    metrics, deadline = tmp_path / "cut" / "metrics.jsonl", time.monotonic() + 120
    while len(read_metrics(metrics)) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: the whole group
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    folder = tmp_path / "cut"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert summary["steps"] >= 2
    assert summary["ledger_balanced"]
    assert (folder / "report.html").exists()
    time.sleep(2)
    assert processes_using(folder) == []


def test_a_killed_pool_stops_the_run_with_a_sentence(tmp_path):
    overrides = [f"run.dir={tmp_path}", "run.name=killed", "run.steps=500", "eval.before=false", *SMALL]
    process = subprocess.Popen(command(*overrides), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics, deadline = tmp_path / "killed" / "metrics.jsonl", time.monotonic() + 120
    while not read_metrics(metrics) and time.monotonic() < deadline:
        time.sleep(0.2)
    log = tmp_path / "killed" / "logs" / "policy-0.log"
    victims = processes_using(log)
    assert victims
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "policy rank 0" in errors
    assert "its process died" in errors
    assert "Traceback" not in errors
    assert json.loads((tmp_path / "killed" / "summary.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data=table", "data.train.path={tmp}/empty.jsonl"], "there are no questions in it"),
        (["data=table", "data.train.path={tmp}/columns.jsonl"], "has no column 'question'"),
        (["data=table", "data.train.path={tmp}/long.jsonl"], "questions are longer than the limit"),
        (["model.path={tmp}/damaged"], "is damaged"),
        (["rollout.group_size=1"], "a group of one"),
        (["cluster.policy.ranks=999"], "every rank needs a CPU core"),
        (["run.dir={tmp}/a_file"], "cannot be written"),
        (["run.nmae=x"], "Did you mean 'run.name'?"),
    ],
)
def test_wrong_requests_end_at_once_with_one_sentence(tmp_path, overrides, words):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "columns.jsonl").write_text('{"q": "1+1", "a": "2"}\n')
    (tmp_path / "long.jsonl").write_text(
        "".join(json.dumps({"question": "w " * 900 + str(n), "answer": "1"}) + "\n" for n in range(20))
    )
    (tmp_path / "a_file").write_text("")
    base = Path(__file__).parents[2] / "mel_ray/data/world/base_model"
    (tmp_path / "damaged").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "damaged" / name).write_bytes((base / name).read_bytes())
    (tmp_path / "damaged" / "model.safetensors").write_bytes(np.random.default_rng(0).bytes(500))
    done = run(*(text.format(tmp=tmp_path) for text in overrides), timeout=20)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_check_prints_the_plan_and_the_prompts():
    done = run("--check")
    assert done.returncode == 0
    for words in (
        "DeepSpeed ZeRO-3",
        "16 prompts x 8 = 128 trajectories",
        "an abstraction prompt",
        "no problems found",
    ):
        assert words in done.stdout


def test_evaluation_resumes_and_compares(finished, tmp_path):
    folder, _ = finished

    def evaluate() -> subprocess.CompletedProcess:
        overrides = [
            f"model=[tiny,{folder}/export]",
            "benchmarks=[world_heldout]",
            f"output={tmp_path}/out",
            "eval.samples=2",
        ]
        arguments = [sys.executable, "-m", "mel_ray.evaluate", *overrides]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=240)

    first = evaluate()
    assert first.returncode == 0, first.stderr
    assert "differences to tiny" in first.stdout
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["questions"] for row in rows] == [96, 96]
    journals = sorted((tmp_path / "out" / "responses").glob("*.jsonl"))
    assert len(journals) == 2
    assert all(pq.read_table(journal.with_suffix(".parquet")).num_rows == 96 * 3 for journal in journals)
    lines = journals[0].read_text().splitlines(keepends=True)
    journals[0].write_text("".join(lines[:-5]) + lines[-5][:30])  # killed while it wrote
    second = evaluate()
    assert second.returncode == 0, second.stderr
    assert json.loads((tmp_path / "out" / "results.json").read_text())[0]["pass@1"] == rows[0]["pass@1"]
    intact = [line for line in journals[0].read_text().splitlines() if _is_json(line)]
    assert len(intact) == 96 * 2


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model=/no/such/folder", "benchmarks=[world_heldout]"], "there is no such folder"),
        (["model=tiny", "benchmarks=[aime42]"], "there is no such benchmark"),
        (["model=tiny", "benchmarks=[]"], "nothing to evaluate on"),
    ],
)
def test_wrong_evaluations_end_at_once(overrides, words):
    done = subprocess.run(
        [sys.executable, "-m", "mel_ray.evaluate", *overrides], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
