"""Rewards of one's own: parts with weights, through the real child processes, and what can be wrong with them."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mel_ray.cli.mel import main
from mel_ray.config.load import compose_config
from mel_ray.config.schema import RewardPart
from mel_ray.policy.rows import overlong_penalty, rows_of, score
from mel_ray.records.problem import ConfigError
from mel_ray.records.question import Question, Truth
from mel_ray.records.row import correct, incorrect, is_mixed
from mel_ray.records.verdict import Outcome
from mel_ray.rewards.functions import Judgement, Response, call_function, call_part, flaw_of
from mel_ray.rewards.mixture import OVERLONG_ZONE, length_value
from mel_ray.rewards.reward_problems import find_reward_problems
from mel_ray.rewards.verifier import Verifier, VerifierSettings
from tests.unit.builders import config_of, exploration

HERE = "tests.unit.test_reward_functions"
DOC = Path(__file__).resolve().parents[2] / "docs" / "rewards.md"
QUESTION = Question("1 + 1?", Truth("2"), columns={"bonus": 0.25})
RIGHT, WRONG, SILENT = "so \\boxed{2}", "so \\boxed{3}", "two"


def bonus(responses):
    """A part: what a column says, for responses that begin with "so"."""
    return [one.columns["bonus"] * one.response.startswith("so") for one in responses]


async def tokens(responses):
    """A part, async, of the responses' lengths."""
    return [Judgement(True, reward=one.tokens) for one in responses]


def graded(responses):
    """Decides what is correct, and names two parts."""
    return [
        Judgement("2" in one.response, parts={"correct": 0.75, "polite": float("please" in one.response)})
        for one in responses
    ]


def rewarded(responses):
    return [Judgement(False, reward=0.5) for _ in responses]


def named(responses):
    return [Judgement(True, parts={"format": 0.5}) for _ in responses]


def not_finite(responses):
    return [math.nan if one.response == WRONG else math.inf if one.response == SILENT else 1.0 for one in responses]


def undecided(responses):
    return [Judgement(None) for _ in responses]


def too_few(responses):
    return [1.0]


def raises(responses):
    raise LookupError("no such column")


def leaves(responses):
    raise SystemExit(3)


def numbers(responses):
    return [1.0 for _ in responses]


def nothing(responses):
    return None


def infinite_part(responses):
    return [Judgement(True, parts={"style": math.inf}) for _ in responses]


def odd_name(responses):
    return [Judgement(True, parts={"my part": 1.0}) for _ in responses]


def never_ends(responses):
    while True:
        pass


def part(name: str, weight: float = 1.0) -> RewardPart:
    return RewardPart(function=f"{HERE}:{name}", weight=weight)


def judged(parts, responses=(RIGHT, WRONG, SILENT), function=None, deadline=20.0, lengths=None, max_tokens=0):
    parts = {name: one if isinstance(one, RewardPart) else RewardPart(weight=one) for name, one in parts.items()}
    function = f"{HERE}:{function}" if function else None
    settings = VerifierSettings(deadline, function=function, parts=parts, max_tokens=max_tokens)
    with Verifier(settings) as verifier:
        return verifier.judge_all(responses, QUESTION, lengths)


def test_parts_are_weighted_and_correctness_stays_what_it_is():
    found = judged({"correct": 1.0, "format": 0.2, "bonus": part("bonus", 2.0), "long": part("tokens", 0.01)},
                   lengths=[10, 20, 30])  # fmt: skip
    assert [verdict.outcome for verdict in found] == [Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER]
    assert [verdict.reward for verdict in found] == pytest.approx([1 + 0.2 + 0.5 + 0.1, 0.2 + 0.5 + 0.2, 0.3])
    assert found[0].parts == {"correct": 1.0, "format": 1.0, "bonus": 0.25, "long": 10.0}
    assert found[2].parts == {"correct": 0.0, "format": 0.0, "bonus": 0.0, "long": 30.0}


def test_a_pattern_is_a_part():
    found = judged({"correct": 0.0, "two": RewardPart(pattern="^t.o$", weight=-1.0)})
    assert [verdict.reward for verdict in found] == [0.0, 0.0, -1.0]


def test_the_parts_of_a_judging_function_are_weighted_by_name_and_others_are_recorded():
    first, second = judged({"correct": 2.0}, ["2 please", "3"], function="graded")
    assert (first.outcome, second.outcome) == (Outcome.CORRECT, Outcome.WRONG)
    assert (first.reward, second.reward) == (1.5, 1.5)
    assert (first.parts["polite"], second.parts["polite"]) == (1.0, 0.0)


def test_without_weights_the_parts_of_a_function_add_up():
    assert [verdict.reward for verdict in judged({}, ["2 please", "3"], function="graded")] == [1.75, 0.75]
    (alone,) = judged({}, ["x"], function="rewarded")
    assert (alone.reward, alone.parts) == (0.5, {})


def test_a_reward_without_parts_is_the_value_of_correct():
    (verdict,) = judged({"correct": 2.0}, ["x"], function="rewarded")
    assert (verdict.outcome, verdict.reward) == (Outcome.WRONG, 1.0)


def test_a_name_is_looked_for_in_its_function_then_in_the_judging_one_then_among_the_built_in():
    def format_of(parts, function):
        (verdict,) = judged({"correct": 0.0, **parts}, [RIGHT], function=function)
        return verdict.reward

    assert format_of({"format": RewardPart(pattern="nowhere")}, "named") == 0.0
    assert format_of({"format": part("bonus")}, "named") == 0.25
    assert format_of({"format": 1.0}, "named") == 0.5
    assert format_of({"format": 1.0}, "rewarded") == 1.0


def test_the_function_of_correct_is_the_reward_function():
    (verdict,) = judged({"correct": part("graded", 2.0)}, ["2"])
    assert (verdict.outcome, verdict.reward) == (Outcome.CORRECT, 1.5)


@pytest.mark.parametrize("length", [0, 79, 80, 81, 90, 100, 500])
def test_the_built_in_length_is_dapos_penalty(length):
    assert length_value(length, 100) == pytest.approx(overlong_penalty(length, 100, OVERLONG_ZONE * 100))


def test_length_counts_tokens():
    found = judged({"correct": 1.0, "length": 0.5}, [RIGHT, RIGHT], lengths=[50, 90], max_tokens=100)
    assert [verdict.reward for verdict in found] == [1.0, 0.75]
    (unknown,) = judged({"correct": 1.0, "length": 0.5}, [RIGHT], max_tokens=100)
    assert unknown.reward == 1.0


@pytest.mark.parametrize(
    ("name", "said"),
    [("too_few", "returned 1 results for 3"), ("raises", "LookupError: no such column"), ("leaves", "SystemExit: 3"),
     ("nothing", "returned NoneType")],
)  # fmt: skip
@pytest.mark.parametrize("decides", [False, True])
def test_a_function_that_fails_is_an_error_that_names_it(name, said, decides):
    found = judged({}, function=name) if decides else judged({"correct": 1.0, "style": part(name)})
    assert all(verdict.outcome is Outcome.ERROR and verdict.reward is None for verdict in found)
    assert all(verdict.reason.startswith(f"{HERE}:{name}: ") and said in verdict.reason for verdict in found)


def test_a_value_that_is_not_finite_is_an_error_of_its_response_alone():
    right, wrong, silent = judged({"correct": 1.0, "style": part("not_finite")})
    assert (right.outcome, right.reward) == (Outcome.CORRECT, 2.0)
    assert (wrong.outcome, wrong.reason) == (Outcome.ERROR, f"{HERE}:not_finite: the value is nan")
    assert (silent.outcome, silent.reason) == (Outcome.ERROR, f"{HERE}:not_finite: the value is inf")


@pytest.mark.parametrize(
    ("name", "said"),
    [("numbers", "must return Judgements"), ("undecided", "is_correct is None"),
     ("infinite_part", "the reward is inf"), ("odd_name", "cannot be called 'my part'")],
)  # fmt: skip
def test_what_a_judging_function_must_not_return(name, said):
    (verdict,) = judged({}, ["x"], function=name)
    assert verdict.outcome is Outcome.ERROR
    assert said in verdict.reason


def test_a_part_that_the_judging_function_does_not_return_is_an_error():
    (verdict,) = judged({"correct": 1.0, "tone": 0.5}, ["x"], function="rewarded")
    assert (verdict.outcome, verdict.reason) == (Outcome.ERROR, f"{HERE}:rewarded returned no part 'tone'")


def test_a_part_that_never_ends_is_a_timeout_that_names_it():
    for endless, who in [
        (part("never_ends"), f"{HERE}:never_ends"),
        (RewardPart(pattern="^(a+)+$"), "the part 'slow'"),
    ]:
        (verdict,) = judged({"correct": 1.0, "slow": endless}, ["a" * 60 + "b"], deadline=0.5)
        assert verdict.outcome is Outcome.TIMEOUT
        assert verdict.reason == f"{who}: no verdict within 0.5 s"


def test_a_child_that_does_not_start_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Verifier(VerifierSettings(function="no.such:function")) as verifier:
        assert list(tmp_path.iterdir())
        with pytest.raises(RuntimeError, match="did not start"):
            verifier.judge_all(["x"], QUESTION)
    assert list(tmp_path.iterdir()) == []


def test_judgements_and_numbers_are_told_apart():
    one = [Response("q", "r", "a")]
    assert call_function(lambda _: [Judgement(True)], one) == [Judgement(True)]
    assert call_part(lambda _: [Judgement(True, parts={"x": 2})], one) == [3.0]
    assert call_part(lambda _: (True,), one) == [1.0]
    for given in ("1", ["1"], [None], {"a": 1}):
        with pytest.raises((TypeError, ValueError)):
            call_part(lambda _, given=given: given, one)
    assert flaw_of(Judgement(True)) == flaw_of(Judgement(0)) == ""


def test_meta_experience_goes_by_correctness_and_advantages_by_the_sum():
    found = judged({"correct": 1.0, "bonus": part("bonus", 8.0)}, ["\\boxed{2}", WRONG])
    rows = [replace(row, verdict=one) for row, one in zip(exploration((2, 2), "ww"), found, strict=True)]
    assert (correct(rows), incorrect(rows), is_mixed(rows)) == ([0], [1], True)
    for low, expected in ((0.0, [1.0, 2.0]), (-1.0, [1.0, 3.0])):
        rewarded = score(rows_of([tuple(rows)]), config_of(f"algorithm.incorrect_reward={low}").algorithm, 8)
        assert [row.reward for row in rewarded] == expected
        assert rewarded[0].credit < 0 < rewarded[1].credit


def problems_of(*overrides):
    try:
        return [str(problem) for problem in find_reward_problems(compose_config(overrides))]
    except ConfigError as error:
        return [str(problem) for problem in error.problems]


@pytest.mark.parametrize(
    "parts",
    ["{}", "{correct: 1, format: 0.2, length: 0.1}", "{correct: {weight: 1}}", "{correct: 0, format: 1}",
     "{correct: 1, steps: {pattern: '^Step'}}", f"{{correct: 1, own: {{function: '{HERE}:bonus', weight: -0.5}}}}"],
)  # fmt: skip
def test_mixtures_that_are_right(parts):
    assert problems_of(f"reward.parts={parts}") == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["reward.parts={format: 0.2}"], "no part rewards correctness"),
        (["reward.parts={correct: 0, format: 0}"], "every weight is 0"),
        (["reward.parts={correct: 1, tone: 0.2}"], "no built-in part of this name; there are: correct, format, length"),
        (["reward.parts={correct: 1, format: nan}"], "a weight is a finite number"),
        (["reward.parts={correct: 1, format: -inf}"], "a weight is a finite number"),
        (["reward.parts={correct: 1, format: much}"], "a part is its weight, or a mapping"),
        (["reward.parts={correct: 1, format: {wieght: 0.2}}"], "did you mean 'weight'?"),
        (["reward.parts={correct: 1, a-b: 0.2}"], "letters, digits and underscores"),
        (["reward.parts={correct: 1, own: {pattern: '('}}"], "not a regular expression"),
        (["reward.parts={correct: 1, own: {function: 'no.such:f'}}"], "cannot be imported"),
        (["reward.parts={correct: 1, own: {function: nonsense}}"], "named package.module:function"),
        (["reward.parts={correct: {pattern: x}}"], "a pattern cannot say whether an answer is correct"),
        (["reward.parts={correct: 1, own: {pattern: x, function: 'math:sqrt'}}"], "not by both"),
        (["reward.function=math:sqrt", "reward.parts={correct: {function: 'math:sin'}}"], "name only one of them"),
        (["reward.parts={correct: 1, length: 1}", "algorithm=dapo"], "already penalises overlong answers"),
        (["reward.parts={correct: 1, format: 1}", "algorithm=rft"], "correctness alone"),
    ],
)
def test_mixtures_that_are_wrong_are_one_problem_with_a_remedy(overrides, said):
    (problem,) = problems_of(*overrides)
    assert said.lower() in problem.lower()
    assert problem.startswith(("reward.parts", "algorithm.overlong_zone"))
    assert len(re.findall(r"\. [A-Z]", problem)) == 1 or said == "a part is its weight, or a mapping"


def test_check_shows_the_mixture_or_what_is_wrong_with_it(capsys):
    assert main(["check", "reward.parts={correct: 1, format: 0.2}", f"reward.function={HERE}:graded"]) == 0
    assert f"reward: 1 correct + 0.2 format; correct by {HERE}:graded" in capsys.readouterr().out
    assert main(["check", "reward.parts={correct: 1, tone: 0.2, format: inf}"]) == 2
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "reward.parts.tone", "reward.parts.format.weight=inf",
    ]  # fmt: skip


def test_one_weight_can_be_set_by_its_key():
    reward = compose_config(["reward.parts={correct: 1, format: 0.2}", "reward.parts.format=0.4"]).reward
    assert {name: part.weight for name, part in reward.parts.items()} == {"correct": 1.0, "format": 0.4}


def test_the_examples_of_the_documentation(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)^```$", DOC.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "examples_of_rewards.py").write_text("\n".join(blocks))
    monkeypatch.syspath_prepend(tmp_path)
    question = Question("How far is it?", Truth("3.5"), columns={"within": 0.25})
    with Verifier(VerifierSettings(20.0, function="examples_of_rewards:near_enough")) as verifier:
        near, far, nowhere = verifier.judge_all(["about 3.7", "It is " * 30 + "4", "no idea"], question)
    assert [verdict.outcome for verdict in (near, far, nowhere)] == [Outcome.CORRECT, Outcome.WRONG, Outcome.WRONG]
    assert (near.reward, near.extracted) == (pytest.approx(2.1), "3.7")
    assert far.parts == {"correct": 0.0, "number": 1.0, "short": 0.0}
    assert nowhere.parts == {"correct": 0.0, "number": 0.0, "short": 0.1}
    doubles = Question("Double it.", Truth("assert double(4) == 8"))
    written = [f"```python\ndef double(x):\n    return {body}\n```" for body in ("2 * x", "x")]
    with Verifier(VerifierSettings(20.0, function="examples_of_rewards:passes_tests")) as verifier:
        found = verifier.judge_all(written, doubles)
    assert [verdict.outcome for verdict in found] == [Outcome.CORRECT, Outcome.WRONG]
