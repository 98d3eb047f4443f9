"""The command itself, as a user runs it: a few steps, the run folder, interruption, kill, resume, wrong requests."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from mel_ray.config.load import validate
from mel_ray.data.model_folder import EMBEDDED
from mel_ray.run.metrics_file import read_metrics
from tests.golden.golden import differences, numbers
from tests.pools.processes import processes_using

SMALL = ["rollout.prompts_per_step=6", "eval.samples=2", "eval.every=0", "observe.trajectories=1.0"]
NO_EVALUATION = ["eval.before=false", "eval.after=false"]
# Everything that remembers something from step to step.
STATEFUL = ["mel.memory.size=8", "mel.combination=separate", "mel.reptile.every=3"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def run(*arguments: str, module: str = "main", timeout: float = 240) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", f"mel_ray.{module}", *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout, env=ENVIRONMENT)


@contextmanager
def started(*arguments: str, **environment: str) -> Iterator[subprocess.Popen]:
    """A run in a process group of its own, which does not outlive the test."""
    words, pipe = [sys.executable, "-m", "mel_ray.main", *arguments], subprocess.PIPE
    known = ENVIRONMENT | environment
    process = subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=known, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def wait_until(is_so: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def steps_of(folder: Path) -> list[dict]:
    return [row for row in read_metrics(folder / "metrics.jsonl") if "reward/mean" in row]


def tables(folder: Path) -> list[dict]:
    return [row for file in sorted(folder.iterdir()) for row in pq.read_table(file).to_pylist()]


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
    steps = steps_of(folder)
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
    experiences = tables(folder / "experiences")
    assert len(experiences) == summary["ledger"]["drafts"]["sampled"]
    assert sum(row["kept"] for row in experiences) == summary["ledger"]["drafts"]["trained"]
    for row in experiences:
        assert row["question"]
        assert row["correct"] != row["incorrect"]
        if row["kept"]:
            assert row["bifurcation"]
            assert row["heuristics"]
            assert row["replay_verdicts"] == ["correct"]
    assert len(tables(folder / "trajectories")) == 2 * 6 * 8


def test_the_export_is_a_model_that_transformers_loads(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _ = finished
    tokenizer = AutoTokenizer.from_pretrained(folder / "export")
    trained = AutoModelForCausalLM.from_pretrained(folder / "export", dtype=torch.float32)
    untrained = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
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
    assert [row["step"] for row in steps_of(folder)] == [1, 2, 3]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["ledger"]["trajectories"]["sampled"] == 3 * 6 * 8


def test_the_same_seed_samples_the_same_first_step_with_and_without_mel(tmp_path):
    texts = {}
    for name, enabled in (("mel", "true"), ("grpo", "false")):
        overrides = [f"run.dir={tmp_path}", f"run.name={name}", f"mel.enabled={enabled}", "run.steps=1"]
        done = run(*overrides, *NO_EVALUATION, *SMALL)
        assert done.returncode == 0, done.stderr
        rows = tables(tmp_path / name / "trajectories")
        texts[name] = [(row["question"], row["seed"], row["response"]) for row in rows]
    assert texts["mel"] == texts["grpo"]
    assert not list((tmp_path / "grpo" / "experiences").iterdir())


def test_ctrl_c_leaves_a_complete_folder_and_no_process(tmp_path):
    folder = tmp_path / "cut"
    with started(f"run.dir={tmp_path}", "run.name=cut", "run.steps=500", "eval.before=false", *SMALL) as process:
        wait_until(lambda: len(steps_of(folder)) >= 2)
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does: the whole group
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert summary["steps"] >= 2
    assert summary["ledger_balanced"]
    assert (folder / "report.html").exists()
    wait_until(lambda: processes_using(folder) == [], seconds=10)


def test_a_run_that_was_killed_goes_on_as_if_nothing_had_happened(tmp_path):
    overrides = [f"run.dir={tmp_path}", "run.steps=4", "checkpoint.every=2", *STATEFUL, *NO_EVALUATION, *SMALL]
    assert run("run.name=whole", *overrides).returncode == 0
    folder = tmp_path / "killed"
    with started("run.name=killed", *overrides) as process:
        wait_until(lambda: len(steps_of(folder)) >= 3)
        process.kill()
        process.communicate(timeout=60)
    assert (folder / "checkpoints" / "latest").read_text() == "step-000002"
    assert not (folder / "export").exists()
    wait_until(lambda: processes_using(folder) == [], seconds=30)
    resumed = run("run.name=killed", "run.resume=auto", *overrides)
    assert resumed.returncode == 0, resumed.stderr
    assert "continuing after step 2" in resumed.stdout
    whole, found = numbers(tmp_path / "whole"), numbers(folder)
    assert len(whole["metrics"]) == 4
    assert len(whole["experiences"]) > 4
    assert any(row["mel/past"] for row in whole["metrics"][2:])
    assert list(differences(whole, found)) == []
    assert tables(tmp_path / "whole" / "trajectories") == tables(folder / "trajectories")


def test_a_run_that_was_told_to_stop_while_it_starts_is_to_be_started_again(tmp_path):
    with started("run.name=stopped", f"run.dir={tmp_path}", "run.steps=3", *NO_EVALUATION, *SMALL) as process:
        wait_until(lambda: (tmp_path / "stopped" / "logs" / "policy-0.log").exists())
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert (
        errors == "mel_ray stopped before its first step was done; "
        "the same command with run.name=stopped run.resume=auto goes on\n"
    )
    wait_until(lambda: processes_using(tmp_path) == [], seconds=30)


def test_a_run_that_was_told_to_stop_has_saved_and_goes_on_as_if_nothing_had_happened(tmp_path):
    overrides = [f"run.dir={tmp_path}", "run.steps=3", "checkpoint.every=0", *NO_EVALUATION, *SMALL]
    folder = tmp_path / "stopped"
    with started("run.name=stopped", *overrides) as process:
        wait_until(lambda: steps_of(folder) != [])
        process.send_signal(signal.SIGUSR1)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    done = len(steps_of(folder))
    assert f"mel_ray saved and stopped after step {done}; the same command" in errors
    assert json.loads((folder / "summary.json").read_text())["status"] == "stopped"
    assert (folder / "checkpoints" / "latest").read_text() == f"step-{done:06d}"
    resumed = run("run.name=stopped", "run.resume=auto", *overrides)
    assert resumed.returncode == 0, resumed.stderr
    assert run("run.name=whole", *overrides).returncode == 0
    assert list(differences(numbers(tmp_path / "whole"), numbers(folder))) == []


def test_a_killed_run_that_explored_ahead_can_be_repeated_in_one_go(tmp_path):
    ahead = ["driver.capacity=1", "algorithm.importance_cap=2"]
    overrides = [f"run.dir={tmp_path}", "run.steps=4", "checkpoint.every=2", *ahead, *NO_EVALUATION, *SMALL]
    killed, repeated = tmp_path / "killed", tmp_path / "repeated"
    with started("run.name=killed", *overrides) as process:
        wait_until(lambda: len(steps_of(killed)) >= 3)
        process.kill()
        process.communicate(timeout=60)
    wait_until(lambda: processes_using(killed) == [], seconds=30)
    resumed = run("run.name=killed", "run.resume=auto", *overrides)
    assert "continuing after step 2" in resumed.stdout, resumed.stderr
    assert run("run.name=repeated", "run.replay_order=killed", *overrides).returncode == 0
    whole, found = numbers(killed), numbers(repeated)
    staleness = [row["staleness/mean"] for row in whole["metrics"]]
    assert staleness[1] > 0 and max(staleness) <= 1  # below one where a publish came in the middle of a batch
    assert list(differences(whole, found)) == []
    assert (killed / "order.jsonl").read_text() == (repeated / "order.jsonl").read_text()
    other = run("run.name=other", "run.replay_order=killed", *overrides, "rollout.prompts_per_step=5")
    assert other.returncode == 2 and "rollout.prompts_per_step=5" in other.stderr


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
    (tmp_path / "damaged").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "damaged" / name).write_bytes((EMBEDDED / name).read_bytes())
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
        models, output = f"model=[tiny,{folder}/export]", f"output={tmp_path}/out"
        return run(models, "benchmarks=[world_heldout]", output, "eval.samples=2", module="evaluate")

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
    done = run(*overrides, module="evaluate", timeout=20)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
