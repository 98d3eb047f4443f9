"""run/bottleneck.py: which half waits, and for what."""

import json

import pytest

from mel_ray.run.bottleneck import bottleneck, gain_text, last_alternating_run, phase_means


def row(explore: float, train: float, step: float, wait: float = 0.0, room: float = 0.0) -> dict[str, float]:
    return {"reward/mean": 0.5, "step": 1, "time/explore": explore, "time/train": train, "time/publish": 0.5,
            "time/step": step, "time/wait": wait, "time/room": room}  # fmt: skip


def test_the_first_step_is_left_out_and_so_are_evaluations():
    means = phase_means([row(9, 9, 18), {"eval/x/pass@1": 1.0}, row(2, 1, 3), row(4, 1, 5)])
    assert means is not None and (means["time/explore"], means["time/step"]) == (3, 4)
    assert phase_means([row(1, 1, 2)]) is None


@pytest.mark.parametrize(
    ("means", "capacity", "words"),
    [
        (
            row(6, 3, 10),
            0,
            "exploring 60% and learning 30% of a step, so exploring is the longer one; driver.capacity=1",
        ),
        (row(3, 6, 10), 0, "so learning is the longer one"),
        (
            row(6, 3, 6.5, wait=3),
            1,
            "exploring; the learner waits for rows 46% of the time. More cluster.rollout.engines",
        ),
        (row(3, 6, 6.5, room=3), 1, "learning; the explorer waits for room 46% of the time. More cluster.policy.ranks"),
        (row(6, 6, 6.5, wait=0.1, room=0.2), 1, "none; the learner waits 2% of the time, the explorer 3%"),
    ],
)
def test_the_half_that_the_other_waits_for_is_named_with_its_key(means, capacity, words):
    assert words in bottleneck(means, capacity)


def test_a_partial_run_is_not_told_to_become_partial():
    means = row(6, 3, 6.5, wait=3)
    assert "or rollout.partial=true where" in bottleneck(means, 1)
    assert "or a larger rollout.oversample where" in bottleneck(means, 1, is_partial=True)


def test_what_overlapping_brings_is_the_longer_half_and_the_publish():
    assert "about 6.5 s a step instead of 9.5 s (1.46x)" in gain_text(row(6, 3, 9.5))


def test_the_last_run_that_alternated_with_this_model_is_found(tmp_path):
    for name, model, capacity in (("other", "b", 0), ("ahead", "a", 1), ("mine", "a", 0)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(f"model: {{path: {model}}}\ndriver: {{capacity: {capacity}}}\n")
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row(2, 1, 3.5)) + "\n" for _ in range(3)))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "metrics.jsonl").write_text("{")
    for number, text in enumerate(("- 1", "a: [", "model: 3", "model: {}", "driver: []")):
        (tmp_path / f"damaged-{number}").mkdir()
        (tmp_path / f"damaged-{number}" / "config.yaml").write_text(text)
        (tmp_path / f"damaged-{number}" / "metrics.jsonl").write_text(json.dumps(row(2, 1, 3.5)) + "\n")
    found = last_alternating_run(tmp_path, "a")
    assert found is not None and found[0] == "mine" and found[1]["time/explore"] == 2
    assert last_alternating_run(tmp_path, "c") is None
    assert last_alternating_run(tmp_path / "nothing", "a") is None
