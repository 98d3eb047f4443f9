"""rewards/: extraction, equivalence, and hostile answers met with deadlines in a real child process."""

import json
import subprocess
import sys
import time

import pytest

from mel_ray.records import Outcome
from mel_ray.rewards.extract import last_boxed
from mel_ray.rewards.math_answer import equivalent, plain_integer
from mel_ray.rewards.verifier import Verifier

DEADLINE = 2.0


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("so \\boxed{12}.", "12"),
        ("\\boxed{1} and then \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{3} but \\boxed{4", "3"),
        ("\\boxed{3", None),
        ("no box", None),
        ("\\boxed{}", ""),
        ("\\boxed{" + "{" * 50_000, None),
        ("\\boxed{" + "1" * 10**6 + "}", None),
        ("x" * 10**6 + "\\boxed{5}", "5"),
    ],
)
def test_the_last_complete_box_is_the_answer(response, answer):
    assert last_boxed(response) == answer


@pytest.mark.parametrize(
    ("answer", "truth", "same"),
    [
        ("12", "12", True), ("12", "13", False), ("1,200", "1200", True), ("-3", "- 3", True),
        ("0.5", "\\frac{1}{2}", True),
        ("\\frac{2}{4}", "\\frac12", True), ("x=3", "3", True), ("(1, 2)", "(1,2)", True),
        ("(1, 2)", "(2, 1)", False), ("\\{1,2\\}", "\\{2,1\\}", True), ("\\sqrt{8}", "2\\sqrt{2}", True),
        ("x^2+2x+1", "(x+1)^2", True), ("[0, 1)", "[0,1)", True), ("[0, 1)", "[0,1]", False),
    ],
)  # fmt: skip
def test_equivalence(answer, truth, same):
    assert equivalent(answer, truth) is same


def test_the_fast_path_takes_plain_integers_only():
    assert plain_integer(" $1{,}234$ ") == 1234
    for text in ("1.0", "1e3", "12,34", "x", "1/2", "", "9" * 40):
        assert plain_integer(text) is None


HOSTILE = {
    "tower": "\\boxed{9^{9^{9}}}",
    "factorial": "\\boxed{(10^9)!}",
    "long sum": "\\boxed{\\sum_{n=1}^{10^{12}} n^n}",
    "nested": "\\boxed{" + "\\frac{1}{" * 150 + "1" + "}" * 150 + "}",
    "unbalanced": "\\boxed{" + "{" * 50_000,
    "a million digits": "\\boxed{" + "1" * 10**6 + "}",
    "NUL": "a\0b\\boxed{\0}",
    "code": "\\boxed{__import__('os').system('touch /tmp/mel_ray_was_here')}",
    "surrogate": "\\boxed{\ud800}",
    "braces": "\\boxed{" + "{}" * 900 + "}",
}


def test_hostile_answers_end_within_their_deadline_and_the_judge_survives(tmp_path):
    import pathlib

    with Verifier(DEADLINE) as verifier:
        assert verifier.judge("\\boxed{1}", "1").outcome is Outcome.CORRECT
        for name, response in HOSTILE.items():
            started = time.monotonic()
            verdict = verifier.judge(response, "7")
            assert verdict.outcome is not Outcome.CORRECT, name
            assert time.monotonic() - started < DEADLINE + 15, name  # the restart of the child included
            assert verifier.judge("\\boxed{4}", "4").outcome is Outcome.CORRECT, name
        assert verifier.replaced >= 1
    assert not pathlib.Path("/tmp/mel_ray_was_here").exists()


def test_a_killed_child_is_replaced():
    with Verifier(DEADLINE) as verifier:
        assert verifier.judge("\\boxed{1}", "1").outcome is Outcome.CORRECT
        verifier._process._child.kill()
        verifier._process._child.wait()
        assert verifier.judge("\\boxed{1}", "1").outcome is Outcome.ERROR
        assert verifier.judge("\\boxed{1}", "1").outcome is Outcome.CORRECT


def score(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "mel_ray.rewards.score", *map(str, arguments)], capture_output=True, text=True
    )


def test_the_score_command(tmp_path):
    rows = [{"response": "\\boxed{1}", "answer": "1", "id": 7}, {"response": "none", "answer": "1"}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = score("--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl")
    assert done.returncode == 0, done.stderr
    judged = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["verdict"] for row in judged] == ["correct", "no_answer"]
    assert judged[0]["id"] == 7
    assert all(row["reason"] for row in judged)


@pytest.mark.parametrize("content", ["not json", '{"response": "x"}', "[1]", None])
def test_the_score_command_names_what_is_wrong(tmp_path, content):
    if content is not None:
        (tmp_path / "in.jsonl").write_text(content)
    done = score("--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl")
    assert done.returncode == 2
    assert "in.jsonl" in done.stderr
    assert "Traceback" not in done.stderr
