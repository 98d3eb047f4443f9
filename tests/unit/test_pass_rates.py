"""Pass rates: what is measured, the file that keeps it, and the band of questions that training takes from it."""

import json
from collections.abc import Sequence

import pytest

from mel_ray.cli.app import BAD_REQUEST, DONE
from mel_ray.cli.check import checked_and_prepared
from mel_ray.cli.mel import main
from mel_ray.cli.pass_rate import as_measured, measured
from mel_ray.config.checks import find_problems
from mel_ray.data.pass_rate_file import Measured, PassRateFile
from mel_ray.evaluation.pass_rates import histogram_text, measure, pass_rate_of
from mel_ray.records.evaluation import PassRate
from mel_ray.records.problem import ConfigError
from mel_ray.records.row import rows_of_group
from tests.driver.fakes import FakeRewards, FakeRollout, World
from tests.unit.builders import LENGTH, config_of, group, judged, prompt

BY = Measured("embedded", 8, 1.0, 96, "abc")


def rate(question_id: str, correct: int, samples: int = 8, source: str = "train") -> PassRate:
    return PassRate(question_id, "1 + 1?", source, samples, correct)


# -- measuring


async def test_every_question_is_sampled_as_often_as_asked():
    world, found = World({"a": "cwwn", "b": "cccc"}), []
    rollout = FakeRollout(world)

    def report(one: PassRate, _: Sequence) -> None:
        found.append(one)

    prompts = [prompt(question_id=name) for name in "ab"]
    await measure(prompts, 4, config_of(), rollout, FakeRewards(world), report)
    assert {one.question_id: (one.samples, one.correct, one.pass_rate) for one in found} == {
        "a": (4, 1, 0.25),
        "b": (4, 4, 1.0),
    }
    assert len({seed for seeds in rollout.seeds for seed in seeds}) == 8


def test_what_became_of_the_samples_is_counted():
    asked = prompt("Q?", question_id="q")
    rows = judged(rows_of_group(group((4,) * 5, finish=LENGTH)), "cwnte")
    assert pass_rate_of(asked, rows) == PassRate("q", "Q?", "train", 5, 1, truncated=5, no_answer=1, failed=2)


def test_measuring_asks_all_questions_whatever_the_run_would_keep_or_need():
    config = config_of(
        "data.train=[{name: a, count: 3, pass_rate: [0.1, 0.9]}, {name: b, split: heldout, count: 2}]",
        "algorithm.minibatches=4",
    )
    found = as_measured(config)
    assert find_problems(found) == []
    assert len(checked_and_prepared(found).prompts.prompts) == 5
    assert measured(found, checked_and_prepared(found), 8) == measured(found, checked_and_prepared(found), 8)


@pytest.mark.parametrize(
    "override",
    ["data.prompt='Q: {{ question }}'", "reward.extract=[hashes]", "model.system_prompt=Hi", "run.seed=3"],
)
def test_what_else_changes_pass_rates_is_noticed(override):
    def of(*overrides: str) -> str:
        config = as_measured(config_of("data.train.count=3", *overrides))
        return measured(config, checked_and_prepared(config), 8).settings

    assert of(override) != of()


# -- the file


def test_a_file_goes_on_where_it_ended(tmp_path):
    path = tmp_path / "sub" / "rates.jsonl"
    file = PassRateFile(path, BY)
    file.add(rate("a", 2))
    file.add(rate("b", 8))
    again = PassRateFile(path, BY)
    assert again.known == {"a": rate("a", 2), "b": rate("b", 8)}
    with path.open("a") as stream:
        stream.write('{"question_id": "c", "corr')  # the process was killed
    after = PassRateFile(path, BY)
    assert list(after.known) == ["a", "b"]
    after.add(rate("c", 0))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["question_id"], line["pass_rate"]) for line in lines] == [("a", 0.25), ("b", 1.0), ("c", 0.0)]
    assert set(lines[0]) >= {"question", "source", "samples", "correct", "truncated", "no_answer", "model"}


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (Measured("mine", 8, 1.0, 96, "abc"), "it was measured with model embedded, and this is model mine."),
        (Measured("embedded", 4, 1.0, 96, "abc"), "it was measured with samples 8, and this is samples 4."),
        (Measured("embedded", 8, 0.6, 96, "abc"), "it was measured with temperature 1.0, and this is temperature 0.6."),
        (Measured("embedded", 8, 1.0, 64, "abc"), "it was measured with max_tokens 96, and this is max_tokens 64."),
        (Measured("embedded", 8, 1.0, 96, "xyz"), "it was measured with another state of the model"),
    ],
)
def test_a_file_that_was_measured_in_another_way_is_refused(tmp_path, other, told):
    path = tmp_path / "rates.jsonl"
    PassRateFile(path, BY).add(rate("a", 2))
    before = path.read_text()
    with pytest.raises(ConfigError) as caught:
        PassRateFile(path, other)
    assert told in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert path.read_text() == before
    assert PassRateFile(path, other, overwrite=True).known == {}
    assert path.read_text() == ""


@pytest.mark.parametrize(
    "text", ['{"question": "Q?", "answer": "1"}\n', "no json\n", "[1]\n", '{"question_id": "a"}\n']
)
def test_a_file_of_something_else_is_never_written_to(tmp_path, text):
    path = tmp_path / "data.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match="not a file of pass rates"):
        PassRateFile(path, BY)
    assert path.read_text() == text


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "rates.jsonl"):
        with pytest.raises(ConfigError, match="--output"):
            PassRateFile(path, BY)


# -- the band


def world_questions(count: int) -> list[str]:
    config = config_of(f"data.train.count={count}", "rollout.prompts_per_step=2")
    return [one.question_id for one in checked_and_prepared(config).prompts.prompts]


def band(path, low: float, high: float, *overrides: str):
    texts = [f"data.train.pass_rate=[{low},{high}]", f"data.train.pass_rate_file={path}", "data.train.count=24"]
    return checked_and_prepared(config_of(*texts, "rollout.prompts_per_step=2", *overrides))


@pytest.fixture
def rates(tmp_path):
    """Of 24 questions 20 are measured: five with each of 0, 1/8, 7/8 and 1."""
    file = PassRateFile(tmp_path / "rates.jsonl", BY)
    for number, question_id in enumerate(world_questions(20)):
        file.add(rate(question_id, (0, 1, 7, 8)[number % 4]))
    return file.path


def test_a_band_keeps_its_bounds_and_what_is_left_out_is_counted(rates):
    assert len(band(rates, 0.125, 0.875).prompts.prompts) == 10
    assert len(band(rates, 0.126, 1).prompts.prompts) == 10
    assert len(band(rates, 0, 0).prompts.prompts) == 5
    assert band(rates, 0.1, 0.9).dropped == [
        "10 questions dropped: pass rate not in [0.1, 0.9]",
        f"4 questions dropped: not measured in {rates}",
    ]


def test_a_band_that_leaves_too_few_is_a_sentence(rates):
    with pytest.raises(ConfigError) as caught:
        band(rates, 0.3, 0.6)
    assert str(caught.value) == (
        "data.train.pass_rate=[0.3, 0.6]: of 24 questions none is left: 20 outside, 4 not measured. Widen it."
    )
    with pytest.raises(ConfigError) as caught:
        band(rates, 0.1, 0.9, "rollout.prompts_per_step=16")
    assert str(caught.value).startswith(
        "rollout.prompts_per_step=16: the dataset has only 10 usable questions (10 questions dropped: pass rate not in"
    )


def test_pass_rates_of_other_questions_are_a_sentence(tmp_path):
    PassRateFile(tmp_path / "rates.jsonl", BY).add(rate("other", 4))
    with pytest.raises(ConfigError, match=r"none is left.*Measure these questions with `mel pass-rate`"):
        band(tmp_path / "rates.jsonl", 0, 1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "it cannot be read: No such file or directory"),
        ('{"question_id": "a", "pass_rate": 0.5}\n{"question_id"', "line 2 of rates.jsonl is not JSON"),
        ('{"question_id": "a"}\n', "entry 1 of rates.jsonl lacks question_id or pass_rate"),
        ('{"question_id": "a", "pass_rate": true}\n', "entry 1 of rates.jsonl lacks question_id or pass_rate"),
        ('{"question_id": "a", "pass_rate": 12.5}\n', "has the pass rate 12.5, which is not in [0, 1]"),
        ('{"question_id": "a", "pass_rate": NaN}\n', "which is not in [0, 1]"),
        ("[]\n", "line 1 of rates.jsonl is not a JSON object"),
    ],
)
def test_a_missing_or_damaged_file_is_a_sentence(tmp_path, text, told):
    path = tmp_path / "rates.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        band(path, 0, 1)
    assert str(caught.value).startswith(f"data.train.pass_rate_file={path}: ")
    assert told in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_rates_measured_by_other_means_can_be_given(tmp_path):
    path = tmp_path / "rates.jsonl"
    lines = [json.dumps({"question_id": one, "pass_rate": 0.5}) for one in world_questions(24)]
    path.write_text("\ufeff" + "\r\n".join(lines))
    assert len(band(path, 0.1, 0.9).prompts.prompts) == 24


# -- the command


def test_a_histogram_shows_every_rate_and_each_source():
    shown = histogram_text([rate("a", 0, 4), rate("b", 2, 4), rate("c", 2, 4, "mine"), rate("d", 4, 4, "mine")])
    lines = shown.splitlines()
    assert lines[0] == "pass rates of 4 questions, 4 samples each"
    assert [line.split()[:2] for line in lines[1:6]] == [["0/4", "1"], ["1/4", "0"], ["2/4", "2"], ["3/4", "0"],
                                                         ["4/4", "1"]]  # fmt: skip
    assert lines[3].count("#") == 2 * lines[1].count("#") > lines[2].count("#") == 0
    assert lines[6:] == ["train: mean 0.250; 1 of 2 within [0.1, 0.9]", "mine: mean 0.750; 1 of 2 within [0.1, 0.9]"]


def test_many_samples_are_shown_in_tenths():
    rates = [rate("q", correct, 100) for correct in (0, 1, 9, 10, 99, 100)]
    counts = dict(line.split()[:2] for line in histogram_text(rates).splitlines()[1:13])
    assert counts == {"0": "1", "0.0-0.1": "2", "0.1-0.2": "1", "0.9-1.0": "1", "1": "1"} | dict.fromkeys(
        (f"{n / 10:.1f}-{(n + 1) / 10:.1f}" for n in range(2, 9)), "0"
    )


def test_what_is_measured_already_needs_no_engines(tmp_path, capsys):
    """Everything is in the file, so that the command only shows it."""
    config = as_measured(config_of("data.train.count=3"))
    file = PassRateFile(tmp_path / "rates.jsonl", measured(config, checked_and_prepared(config), 8))
    for question_id in world_questions(3):
        file.add(rate(question_id, 4))
    words = ["pass-rate", "data.train.count=3", "--output", str(file.path)]
    assert main(words) == DONE
    assert "train: mean 0.500; 3 of 3 within [0.1, 0.9]" in capsys.readouterr().out
    assert main([*words, "--samples", "4"]) == BAD_REQUEST
    assert "measured with samples 8, and this is samples 4" in capsys.readouterr().err
    assert main(["pass-rate", "--samples", "0"]) == BAD_REQUEST
    assert "at least 1 is needed" in capsys.readouterr().err
