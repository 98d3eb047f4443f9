"""Any process may die, or hang, at any moment of a step: the run ends with the numbers of one that nothing happened to.

`make test-faults` runs all of it; the rows that are not marked slow belong to `make test`.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mel_ray.records.ledger import Ledger
from tests.faults.faulty import MOMENTS, VICTIMS
from tests.golden.golden import differences, numbers
from tests.pools.processes import orphans, processes_using
from tests.pools.test_end_to_end import ENVIRONMENT, STATEFUL, steps_of, wait_until

STEPS = 5
COMMON = [f"run.steps={STEPS}", "checkpoint.every=2", "eval.before=false", "eval.after=false",
          "rollout.prompts_per_step=6", "observe.trajectories=1.0", *STATEFUL]  # fmt: skip
QUICK = [("policy", "train", 0), ("engine", "publish", 1)]
ORPHANS = orphans()  # of others
COUNTS = ("actors/restarts", "actors/asked_again", "ledger/asked_again")


def run(module: str, *words: str, timeout: float = 400, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", module, *words]
    known = ENVIRONMENT | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=known)


def harmless(line: str) -> bool:
    """Whether a difference is that something was lost and asked again."""
    return any(count in line.partition(":")[0] for count in COUNTS)


class Undisturbed:
    """Runs that nothing happened to, made when they are first asked for."""

    def __init__(self, folder: Path, *words: str) -> None:
        self._folder, self._words, self._seconds = folder, words, dict[int, float]()

    def seconds(self, capacity: int) -> float:
        if capacity not in self._seconds:
            began = time.monotonic()
            words = [f"run.dir={self._folder}", f"run.name=capacity-{capacity}", f"driver.capacity={capacity}"]
            done = run("mel_ray.main", *words, *COMMON, *self._words)
            assert done.returncode == 0, done.stderr
            self._seconds[capacity] = time.monotonic() - began
        return self._seconds[capacity]

    def unlike(self, folder: Path) -> list[str]:
        """Where the numbers of a run with capacity 0 differ."""
        self.seconds(0)
        found = differences(numbers(self._folder / "capacity-0"), numbers(folder))
        return [line for line in found if not harmless(line)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Undisturbed:
    return Undisturbed(tmp_path_factory.mktemp("undisturbed"))


def assert_whole(folder: Path) -> None:
    rows = steps_of(folder)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert all(Ledger.from_dict(row["ledger"]).is_balanced for row in rows)
    assert (folder / "export" / "model.safetensors").exists()
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["ledger_balanced"]) == ("done", STEPS, True)
    for kind in ("experiences", "trajectories"):
        assert {file.name for file in (folder / kind).iterdir()} <= {
            f"step-{n:06d}.parquet" for n in range(1, STEPS + 1)
        }
    wait_until(lambda: processes_using(folder) == [] and orphans() <= ORPHANS, seconds=30)


def incidents(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "incidents.jsonl").read_text().splitlines()]


def rows() -> list:
    every = [(victim, moment, capacity) for capacity in (0, 1) for victim in VICTIMS for moment in MOMENTS]
    return [pytest.param(*row, marks=() if row in QUICK else pytest.mark.slow) for row in every]


@pytest.mark.parametrize(("victim", "moment", "capacity"), rows())
def test_a_process_dies(tmp_path, undisturbed, victim, moment, capacity):
    step, folder, usual = 4, tmp_path / "faulty", undisturbed.seconds(capacity)
    overrides = [f"run.dir={tmp_path}", "run.name=faulty", f"driver.capacity={capacity}", *COMMON]
    began = time.monotonic()
    done = run("tests.faults.faulty", victim, moment, str(step), "SIGKILL", *overrides)
    assert f"SIGKILL to the {victim}" in done.stdout, done.stderr
    if victim == "driver":
        assert done.returncode == -9
        wait_until(lambda: processes_using(folder) == [], seconds=30)
        done = run("mel_ray.main", *overrides, "run.resume=auto")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    longer = time.monotonic() - began - usual
    print(f"{victim}, {moment}, capacity {capacity}: {longer:.1f} s longer than the {usual:.1f} s without")
    assert_whole(folder)
    if victim in ("engine", "experience", "verifier") and not capacity:  # else perhaps nobody needs it any more
        assert "lost" in {one["kind"] for one in incidents(folder)}  # a run this short may end before it is healed
    if victim == "policy":
        assert {"lost", "rewound"} <= {one["kind"] for one in incidents(folder)}
    if (victim, moment) == ("engine", "explore"):
        assert sum(row["actors/asked_again"] for row in steps_of(folder)) > 0
    if capacity == 0:
        assert undisturbed.unlike(folder) == []


@pytest.mark.slow
def test_a_policy_that_is_lost_goes_on_from_the_state_in_memory(tmp_path, undisturbed):
    folder = tmp_path / "faulty"
    overrides = [f"run.dir={tmp_path}", "run.name=faulty", *COMMON, "checkpoint.shadow=true", "checkpoint.every=0"]
    done = run("tests.faults.faulty", "policy", "train", "4", "SIGKILL", *overrides)
    assert done.returncode == 0, done.stderr
    assert_whole(folder)
    rewound = next(one for one in incidents(folder) if one["kind"] == "rewound")
    assert rewound["text"].startswith("It goes on from the state after step 3, which was in memory; ")
    assert "done since then" not in rewound["text"]
    assert undisturbed.unlike(folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["engine", "verifier", "policy"])
def test_a_process_hangs(tmp_path, undisturbed, victim):
    folder = tmp_path / "faulty"
    overrides = [f"run.dir={tmp_path}", "run.name=faulty", "cluster.deadlines.hang=15", *COMMON]
    done = run("tests.faults.faulty", victim, "train", "4", "SIGSTOP", *overrides)
    assert done.returncode == 0, done.stderr
    assert_whole(folder)
    lost = next(one for one in incidents(folder) if one["kind"] == "lost")
    assert "no answer within 15 s" in lost["text"]
    assert undisturbed.unlike(folder) == []


@pytest.mark.slow
def test_a_policy_that_is_lost_again_and_again_ends_the_run(tmp_path):
    overrides = [f"run.dir={tmp_path}", "run.name=faulty", *COMMON]
    done = run("tests.faults.faulty", "policy", "train", "4", "SIGKILL+9", *overrides)
    assert done.returncode == 1
    assert "its process died" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("SIGKILL to the policy") == 4
    assert json.loads((tmp_path / "faulty" / "summary.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_a_rank_whose_memory_does_not_suffice_goes_on_with_half_the_budget(tmp_path):
    overrides = [f"run.dir={tmp_path}", "run.name=faulty", *COMMON, "cluster.policy.token_budget=1600"]
    done = run("tests.faults.faulty", "memory", "explore", "1", "SIGKILL", *overrides)
    assert done.returncode == 0, done.stderr
    assert "cluster.policy.token_budget is 800 from now on" in done.stdout
    assert_whole(tmp_path / "faulty")
