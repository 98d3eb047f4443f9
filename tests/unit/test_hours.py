"""config/hours.py: the published rates, and what lies between and beyond them."""

import pytest

from mel_ray.config.hours import hours_text, rate_of, read_rates, tokens_a_step
from mel_ray.config.load import compose_config


@pytest.mark.parametrize(
    ("parameters", "overlaps", "expected"),
    [(0.6e9, True, 11900), (4e9, True, 3250), (8e9, True, 2478), (8e9, False, 1581), (0.3e9, True, 23800),
     (16e9, True, 1239)],
)  # fmt: skip
def test_known_sizes_have_their_rates_and_others_fall_with_the_parameters(parameters, overlaps, expected):
    assert rate_of(parameters, read_rates(), overlaps) == pytest.approx(expected)


def test_between_two_sizes_the_rate_lies_between_theirs():
    rates = read_rates()
    found = [rate_of(parameters, rates, True) for parameters in (0.6e9, 1e9, 1.7e9, 3e9, 4e9, 6e9, 8e9, 14e9)]
    assert found == sorted(found, reverse=True)


def test_every_rate_has_its_source():
    assert all(rate.source and rate.rate > 0 and rate.how in ("overlapping", "alternating") for rate in read_rates())


def test_tokens_of_a_step_by_hand():
    # 128 x 8 x 8192, and for half of the questions a lesson of 2048 tokens and a replay of 8192
    config = compose_config(["model=qwen3_8b_base", "cluster=2x8"])
    assert tokens_a_step(config) == 128 * 8 * 8192 + 64 * (2048 + 8192)
    assert tokens_a_step(compose_config(["model=qwen3_8b_base", "cluster=2x8", "mel=off"])) == 128 * 8 * 8192


def test_the_text_says_what_it_rests_on():
    text = hours_text(compose_config(["model=qwen3_8b_base", "cluster=2x8"]), 8e9)
    # 140 steps x 9,043,968 tokens / (1,581 x 16 GPUs) = 13.9 hours at full length
    assert text.startswith("estimated time: 3.48 to 10.4 hours for 140 steps")
    assert "published by others" in text
