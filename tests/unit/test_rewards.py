"""rewards/: exact numbers, custom rewards, and hostile answers met with deadlines in a real child process."""

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from mel_ray.records.question import Question, Truth
from mel_ray.records.verdict import Outcome
from mel_ray.rewards.dress import undressed
from mel_ray.rewards.functions import Judgement, load_function
from mel_ray.rewards.limits import too_large
from mel_ray.rewards.math_answer import equivalent
from mel_ray.rewards.numbers import plain_form, read_number, split_mark
from mel_ray.rewards.verifier import Verifier, VerifierSettings

DEADLINE = 1.0


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


def test_what_is_read_as_an_exact_number():
    half = Fraction(1, 2)
    for text, value in [(" $1{,}234$ ", 1234), ("1,234,567.5", Fraction(12345675, 10)), ("1/2", half), ("5.", 5),
                        ("-\\frac{1}{2}", -half), (".5", half), ("\\dfrac{-3}{6}", -half), ("1e3", 1000),
                        ("1 1/2", 3 * half), ("1\\,000", 1000), ("2 \\times 10^{-3}", Fraction(2, 1000))]:  # fmt: skip
        assert read_number(undressed(text)).value == value, text
    for text in ("12,34", "x", "", "9" * 100, "1/0", "\\frac{1}{0}", "\\sqrt{2}", "2m", "1e999", "1.2.3", "--1"):
        assert read_number(undressed(text)) is None, text


@pytest.mark.parametrize(
    ("text", "numeral", "mark"),
    [("50\\%", "50", "%"), ("30^\\circ", "30", "°"), ("30°", "30", "°"), ("5 \\text{ percent}", "5", "%"),
     ("5 \\text{ cm}", "5", "\\text{cm}"), ("5", "5", ""), ("5m", "5m", ""), ("\\sin 30^\\circ", "\\sin30^\\circ", "")],
)  # fmt: skip
def test_what_follows_a_numeral_is_its_mark(text, numeral, mark):
    found = split_mark(undressed(text))
    assert (found.numeral.replace(" ", ""), found.mark.replace(" ", "")) == (numeral, mark)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("70", "70.0", True), ("$\\frac12$", "0.5", True), ("1{,}000", "1000", True), ("5 cm", "5\\text{ cm}", True),
     ("5 cm", "5 m", False), ("50\\%", "0.5", False), ("x+1", "{x} + 1", True), ("x+1", "x+2", False)],
)  # fmt: skip
def test_what_is_plainly_the_same_has_one_form(one, other, same):
    assert (plain_form(one) == plain_form(other)) is same


def test_a_tolerance_widens_equality():
    assert equivalent("3.14", "3.1", tolerance=0.05)
    assert not equivalent("3.2", "3.1", tolerance=0.05)


def spells_yes(responses):
    """A custom reward for the tests: async, and rewarding half a point for politeness."""

    print("a reward function may print")

    async def judge():
        return [
            Judgement(
                is_correct=r.answer in r.response, reward=float(r.answer in r.response) + 0.5 * ("please" in r.response)
            )
            for r in responses
        ]

    return judge()


def never_ends(responses):
    while True:
        pass


def returns_too_little(responses):
    return []


def test_a_custom_reward_function_judges_in_the_child():
    with Verifier(VerifierSettings(20.0, function="tests.unit.test_rewards:spells_yes")) as verifier:
        one, two = verifier.judge_all(["yes please", "no"], Question("Is it?", Truth("yes")))
    assert (one.outcome, one.reward) == (Outcome.CORRECT, 1.5)
    assert (two.outcome, two.reward) == (Outcome.WRONG, 0.0)


@pytest.mark.parametrize(
    ("name", "deadline", "outcome"),
    [("never_ends", 0.2, Outcome.TIMEOUT), ("returns_too_little", 20.0, Outcome.ERROR)],
)
def test_a_custom_reward_function_that_misbehaves_is_a_verdict(name, deadline, outcome):
    with Verifier(VerifierSettings(deadline, function=f"tests.unit.test_rewards:{name}")) as verifier:
        assert [v.outcome for v in verifier.judge_all(["a", "b"], Question("Is it?", Truth("c")))] == [outcome, outcome]


@pytest.mark.parametrize("path", ["nonsense", "no.such.module:f", "mel_ray.cli.score:nothing", "mel_ray:__doc__"])
def test_a_reward_function_that_cannot_be_loaded_is_a_sentence(path):
    with pytest.raises(ValueError, match=r"reward function|module|not a function"):
        load_function(path)


def test_the_child_refuses_programs_network_and_writing():
    code = """
import os, socket, subprocess, sys, tempfile
from mel_ray.rewards.child import forbid_side_effects
folder = tempfile.mkdtemp()
forbid_side_effects(folder)
open(os.path.join(folder, "ok"), "w").write("x")
for act in (lambda: open("/tmp/mel_ray_no", "w"), lambda: os.system("true"), lambda: subprocess.run(["true"]),
            lambda: socket.create_connection(("127.0.0.1", 9)), lambda: os.remove(os.path.join(folder, "ok")),
            lambda: os.open("/tmp/mel_ray_no", os.O_WRONLY | os.O_CREAT)):
    try:
        act()
    except PermissionError:
        continue
    sys.exit(1)
print("all refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "all refused\n", done.stderr


def test_the_self_test_passes_and_notices_a_broken_verifier(monkeypatch):
    from mel_ray.rewards import verifier as module

    with Verifier() as verifier:
        verifier.self_test()
        monkeypatch.setattr(module, "SELF_TEST", (("\\boxed{1}", "2", "correct"),))
        with pytest.raises(RuntimeError, match="self-test"):
            verifier.self_test()


@pytest.mark.parametrize(
    "expression",
    ["9^{9^{9}}", "9^(9^9)", "9^{9^{9^9}}", "2^{1000000}", "(10^9)!", "100000!", "{10^{9}}!",
     "\\sum_{n=1}^{10^{12}} n^n", "\\prod_{k=1}^{9999999} k", "\\binom{10000000}{50}"],
)  # fmt: skip
def test_expressions_that_are_too_large_are_recognised(expression):
    assert too_large(expression)


@pytest.mark.parametrize(
    "expression",
    ["2^{2024}", "3^{2^4}", "x^{y^z}", "e^{x^{2}}", "10!", "(n+1)!", "(2n)!", "\\sum_{k=1}^{100} k",
     "\\sum_{k=1}^{n} k^2", "\\binom{2024}{2}", "10^{100}", "\\frac{7^{50}-1}{6}", "12345678901234567890", "(x^2+1)^3"],
)  # fmt: skip
def test_ordinary_expressions_are_not(expression):
    assert too_large(expression) is None


def test_a_too_large_answer_is_wrong_unless_it_is_the_truth_itself():
    with Verifier(VerifierSettings(DEADLINE)) as verifier:
        assert verifier.judge("\\boxed{9^{9^{9}}}", "9^{9^{9}}").outcome is Outcome.CORRECT
        assert verifier.judge("\\boxed{9^{9^{9}}}", "7").outcome is Outcome.WRONG
        assert verifier.judge("\\boxed{9^{9^{9}}}", "(3^2)^{9^{9}}").outcome is Outcome.ERROR
        assert verifier.replaced == 0


HOSTILE = {
    "slips through": "\\boxed{\\int_0^1 \\int_0^1 \\frac{\\sin(x^{99999} y)^{999}}{\\cos(xy)^{77777}+x^{y^{x}}} dx dy}",
    "huge power of a sum": "\\boxed{(x+y+z+w+1)^{90000}-(x+y)^{80000}}",
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


def test_hostile_answers_end_at_their_deadline_and_the_judge_survives():
    ended = 0
    with Verifier(VerifierSettings(DEADLINE)) as verifier:
        assert verifier.judge("\\boxed{1}", "1").outcome is Outcome.CORRECT
        for name, response in HOSTILE.items():
            verdict = verifier.judge(response, "7")
            assert verdict.outcome is not Outcome.CORRECT, name
            ended += verdict.outcome is Outcome.TIMEOUT or "process died" in verdict.reason
            assert verifier.judge("\\boxed{4}", "4").outcome is Outcome.CORRECT, name
        assert verifier.replaced == ended > 0  # a child that had to be ended was replaced, and no other
    assert not Path("/tmp/mel_ray_was_here").exists()


def test_a_killed_child_is_replaced_and_asked_again():
    with Verifier(VerifierSettings(DEADLINE)) as verifier:
        assert verifier.judge("\\boxed{1}", "1").outcome is Outcome.CORRECT
        verifier._process._child.kill()
        verifier._process._child.wait()
        assert verifier.judge("\\boxed{1}", "1").outcome is Outcome.CORRECT
        assert verifier.replaced == 1


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
