"""`mel pass-rate` as a user runs it: measured, taken up again, and trained on."""

import json
import os
import subprocess
import sys

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def mel(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mel_ray.cli.mel", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=ENVIRONMENT)


def test_pass_rates_are_measured_taken_up_again_and_trained_on(tmp_path):
    rates = tmp_path / "rates.jsonl"
    asked = ["data.train.count=12", "eval.benchmarks=[]"]
    measure = ["pass-rate", *asked, "--samples", "4", "--output", str(rates)]
    done = mel(*measure)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pass rates of 12 questions, 4 samples each" in done.stdout
    whole = {line["question_id"]: line for line in map(json.loads, rates.read_text().splitlines())}
    assert len(whole) == 12
    assert all(line["pass_rate"] == line["correct"] / line["samples"] for line in whole.values())
    assert any(0 < line["correct"] < 4 for line in whole.values())

    first = rates.read_text().splitlines(keepends=True)[:9]
    rates.write_text("".join(first) + '{"question_id"')  # as if the process had been killed
    again = mel(*measure)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "12 questions, 9 of them measured before" in again.stdout
    assert {line["question_id"]: line for line in map(json.loads, rates.read_text().splitlines())} == whole

    band = ["data.train.pass_rate=[0.25,0.75]", f"data.train.pass_rate_file={rates}"]
    checked = mel("check", *asked, *band, "rollout.prompts_per_step=1")
    kept = sum(0.25 <= line["pass_rate"] <= 0.75 for line in whole.values())
    assert f"questions: {kept} to train on, from 12 rows" in checked.stdout, checked.stderr
