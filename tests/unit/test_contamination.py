"""data/contamination.py and eval.decontaminate: overlap as a share of the benchmark question, without phrases."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mel_ray.config.load import compose_config
from mel_ray.config.schema import SourceConfig
from mel_ray.data.contamination import grams, overlaps, words_of
from mel_ray.data.datasets import load
from mel_ray.data.prepare import prepare
from mel_ray.records.question import Question, Truth
from tests.unit.public_data import public


def asked(*texts):
    return [Question(text, Truth("1")) for text in texts]


def shares(train, held):
    return [
        (one.train.text, one.held.text, round(one.share, 3)) for one in overlaps(asked(*train), {"b": asked(*held)})
    ]


def words(start, count):
    return " ".join(f"w{number}" for number in range(start, start + count))


ENDING = "where m and n are relatively prime positive integers. Find the value of m + n."


def test_the_share_is_that_of_the_benchmark_question():
    held = words(0, 40)
    assert shares([f"{words(0, 20)} {words(100, 80)}"], [held]) == [(f"{words(0, 20)} {words(100, 80)}", held, 0.5)]
    assert shares([f"{words(500, 300)} {held} {words(900, 9)}"], [held])[0][2] == 1.0
    assert shares([words(0, 12)], [held]) == []  # twelve words are too few


def test_the_worst_pair_of_each_training_question_comes_first():
    first, second = words(0, 30), f"{words(0, 15)} {words(50, 15)}"
    found = shares([words(0, 30), words(0, 15)], [second, first])
    assert found == [(first, first, 1.0), (words(0, 15), second, 0.5)]


def test_words_are_compared_without_case_spacing_and_punctuation_but_with_signs():
    assert words_of(r"Let $x = \left( 3 + 4 \right)$, then\, STOP.") == words_of("let x=(3+4) then stop")
    assert words_of("3 + 4") != words_of("3 * 4")
    assert grams(()) == []


@given(st.lists(st.sampled_from("abcdefgh"), max_size=12), st.lists(st.sampled_from("abcdefgh"), max_size=12))
def test_short_questions_overlap_only_if_they_are_equal(left, right):
    found = shares([" ".join(left)], [" ".join(right)])
    assert [share for _, _, share in found] == ([1.0] if left == right and left else [])


def test_a_phrase_that_many_questions_end_with_does_not_count():
    held = f"{words(0, 30)} {ENDING}"
    others = [f"{words(100 * number, 40)} {ENDING}" for number in range(1, 6)]
    assert shares(others, [held]) == []
    # nor where it is most of a short question
    assert shares(others, [f"{words(0, 5)} {ENDING}"]) == []
    # and a copy is still found, in full
    assert shares([*others, f"Please solve. {held}"], [held]) == [(f"Please solve. {held}", held, 1.0)]
    half = f"{words(0, 20)} {words(700, 60)} {ENDING}"
    (found,) = shares([*others, half], [held])
    assert found[2] == pytest.approx(20 / 30, abs=0.1)


def test_a_question_that_is_one_phrase_is_found_in_a_copy_alone():
    held = f"Find all numbers n below one hundred such that {words(0, 12)}"
    others = [f"{words(100 * number, 60)} {held} {words(100 * number + 60, 20)}?" for number in range(1, 3)]
    near = [held.replace("w11", f"v{number}") for number in range(5)]
    assert shares([held, *near], [held])[0] == (held, held, 1.0)
    assert {share for _, _, share in shares(others, [held])} == {1.0}


def test_several_copies_with_different_words_around_them_stay_copies():
    held = words(0, 30)
    copies = [f"{words(100 * number, 70)} {held}" for number in range(1, 9)]
    assert {share for _, _, share in shares(copies, [held])} == {1.0}


def test_chinese_has_words_too():
    text = "求所有正整数使得这个数的平方加一能被七整除的最小值"
    assert shares([f"已知{text}。"], [text])[0][2] == 1.0


def written(path, texts):
    path.write_text("\n".join(json.dumps({"question": text, "answer": "1"}) for text in texts))
    return path


def prepared(tmp_path, *overrides):
    held = written(tmp_path / "held.jsonl", [words(0, 20), words(50, 20)])
    train = written(tmp_path / "train.jsonl", [words(0, 20), words(53, 13), words(50, 11), *map(str, range(20))])
    config = compose_config(
        ["data=table", f"data.train.path={train}", f"eval.benchmarks=[mine={held}]", "rollout.prompts_per_step=4",
         *overrides]
    )  # fmt: skip
    return prepare(config)


def test_contaminated_questions_are_counted_or_dropped(tmp_path):
    kept = prepared(tmp_path)
    assert len(kept.prompts.prompts) == 23
    assert kept.dropped == [
        "2 questions are contaminated: they hold 50% or more of a question of mine; eval.decontaminate=drop drops them"
    ]
    dropped = prepared(tmp_path, "eval.decontaminate=drop")
    assert len(dropped.prompts.prompts) == 21
    assert dropped.dropped == ["2 questions dropped: they hold 50% or more of a question of mine"]
    strict = prepared(tmp_path, "eval.decontaminate=drop", "eval.max_overlap=0.7")
    assert len(strict.prompts.prompts) == 22


def test_the_embedded_world_is_not_compared():
    assert prepare(compose_config([])).dropped == []


def test_public_training_questions_hold_no_aime_2024():
    train = load(SourceConfig(kind="table", path=str(public("dapo/dapo_math_17k.parquet")), question="prompt",
                              answer="reward_model.ground_truth")).questions  # fmt: skip
    held = {
        name: load(SourceConfig(kind="table", path=str(public(file)), question="problem")).questions
        for name, file in (("aime24", "aime/deepscaler_aime.json"), ("amc", "amc/deepscaler_amc.json"))
    }
    found = overlaps(train, held)
    assert max(one.share for one in found if one.benchmark == "aime24") < 0.2
    assert sum(one.share >= 0.9 for one in found if one.benchmark == "amc") > 30  # DAPO holds AMC problems verbatim
