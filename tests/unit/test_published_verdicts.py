"""Published truths, answers and verdicts, judged as their publishers say; skipped where the data is absent."""

import json
import re

import pytest

from mel_ray.records.question import Truth
from mel_ray.rewards.judge import judge_answer
from mel_ray.rewards.math_answer import equivalent
from mel_ray.rewards.numbers import plain_form, read_number
from tests.unit.public_data import public


def is_correct(answer, truth):
    return judge_answer(f"So it is $\\boxed{{{answer}}}$.", Truth(truth), ("boxed",))["outcome"] == "correct"


def golds_of(file, column):
    path = public(file)
    text = path.read_text(encoding="utf-8")
    rows = map(json.loads, text.splitlines()) if path.suffix == ".jsonl" else json.loads(text)
    for row in rows:
        said = row[column]
        yield from (str(one).strip() for one in (said if isinstance(said, list) else [said]))


FILES = [
    ("aime/aimo-validation-aime.jsonl", "answer"), ("aime/deepscaler_aime.json", "answer"),
    ("aime/orz_aime2024.json", "final_answer"), ("amc/aimo-validation-amc.jsonl", "answer"),
    ("amc/deepscaler_amc.json", "answer"), ("math500/orz_math500.json", "final_answer"),
    ("math500/simplerl_math500.jsonl", "answer"), ("minerva/deepscaler_minerva.json", "answer"),
    ("olympiadbench/deepscaler_olympiad_bench.json", "answer"), ("svamp/SVAMP.json", "Answer"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "column"), FILES)
def test_every_published_truth_is_correct_against_itself(file, column):
    failed = [gold for gold in golds_of(file, column) if not is_correct(gold, gold)]
    assert not failed


@pytest.mark.parametrize("file", ["gsm8k/test.jsonl", "gsm8k/train.jsonl"])
def test_every_grade_school_truth_is_correct_by_its_own_mark(file):
    for line in public(file).read_text(encoding="utf-8").splitlines():
        solution = json.loads(line)["answer"]
        gold = solution.rpartition("####")[2].strip()
        assert judge_answer(solution, Truth(gold), ("hashes",))["outcome"] == "correct", gold
        assert is_correct(f"\\${gold}", gold), gold
        number = read_number(gold)
        assert number is not None, gold
        assert not is_correct(str(number.value + 1), gold), gold


def test_no_competition_truth_counts_for_another():
    numbers = [*golds_of("aime/aimo-validation-aime.jsonl", "answer"), *golds_of("amc/deepscaler_amc.json", "answer")]
    for gold, other in zip(numbers, numbers[1:] + numbers[:1], strict=True):
        assert equivalent(other, gold) is (float(other) == float(gold))


def test_neighbouring_truths_of_math_are_told_apart():
    """Truths of the same set, each against the next ones: only a numeral with another mark or base is the same."""
    gold = sorted(set(golds_of("math500/simplerl_math500.jsonl", "answer")))
    pairs = [(one, other) for n, one in enumerate(gold) for other in gold[n + 1 : n + 4] if equivalent(one, other)]
    for one, other in pairs:
        first, second = (plain_form(re.sub(r"_\{?\d\}?$", "", text))[0] for text in (one, other))
        assert first == second, (one, other)


def scoring_examples():
    """OlympiadBench's own examples, with the tolerance where an example has one."""
    for row in json.loads(public("olympiadbench/scoring_examples.json").read_text()):
        for case in row["Ans"]:
            precision = case.get("precision", 0.0)
            tolerance = tuple(map(float, precision)) if isinstance(precision, list) else float(precision)
            yield case["answer"], Truth(row["GT"], tolerance=tolerance), case["equal"]


def test_the_scoring_examples_of_olympiadbench_are_judged_as_stated():
    failed = []
    for answer, truth, is_equal in scoring_examples():
        response = answer if "\\boxed" in answer else f"\\boxed{{{answer}}}"
        if (judge_answer(response, truth, ("boxed",))["outcome"] == "correct") is not is_equal:
            failed.append((answer, truth, is_equal))
    assert not failed


OLYMPIAD = "olympiadbench/deepscaler_olympiad_bench.json"


def separate_items(gold):
    """Items that the publisher put in dollar signs of their own: `$1$,$2$`, or a bare list of numbers; else None."""
    plain = gold.strip()
    if plain.startswith("$") and plain.endswith("$") and len(items := re.split(r"\$, ?\$", plain.strip("$"))) > 1:
        return items if all(item.count("(") == item.count(")") and "," not in item for item in items) else None
    if all(item.strip().lstrip("-").isdigit() for item in plain.split(",")):
        return plain.split(",")
    return None


def test_the_lists_of_olympiadbench_may_have_a_box_for_each_item():
    failed, judged = [], 0
    for row in json.loads(public(OLYMPIAD).read_text()):
        for gold in row["answer"]:
            items = separate_items(gold) if row["is_multiple_answer"] else None
            if not items or len(set(items)) < max(2, len(items)):
                continue
            boxes = [f"$\\boxed{{{item}}}$" for item in items]
            missing = " and ".join(boxes[:-1])
            for response, is_right in [
                (", ".join(boxes), True), (" and ".join(boxes), True), ("\n".join(boxes), True),
                (", ".join(reversed(boxes)), True), (missing, False), (f"{missing}, $\\boxed{{987654}}$", False),
                (f"{', '.join(boxes)}, $\\boxed{{987654}}$", False),
            ]:  # fmt: skip
                judged += 1
                if (judge_answer(response, Truth(gold), ("boxed",))["outcome"] == "correct") is not is_right:
                    failed.append((gold, response, is_right))
    assert judged > 200
    assert not failed


def test_the_verdicts_on_real_solutions_of_grade_school_problems_are_confirmed():
    rows = [json.loads(line) for line in public("gsm8k/example_model_solutions.jsonl").read_text().splitlines()]
    false_credit, unjust = [], []
    for row in rows:
        gold = row["ground_truth"].rpartition("A:")[2].strip()
        for name in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
            answer = row[name]["solution"].rpartition("A:")[2].strip() if "A:" in row[name]["solution"] else ""
            is_correct = judge_answer(f"#### {answer}", Truth(gold), ("hashes",))["outcome"] == "correct"
            if is_correct and not row[name]["is_correct"]:
                false_credit.append((gold, answer))
            if row[name]["is_correct"] and not is_correct:
                unjust.append((gold, answer))
    assert not false_credit
    assert not unjust
