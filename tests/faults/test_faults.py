"""Any process may die, or hang, at any moment of a step: the run ends with the numbers of one that nothing happened to.

`make test-faults` runs all of it; the rows that are not marked slow belong to `make test`.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
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


@dataclass
class Done:
    """`lines`: of stdout, with the time at which each came, by the monotonic clock."""

    returncode: int
    lines: list[tuple[float, str]]
    stderr: str

    @property
    def stdout(self) -> str:
        return "".join(line for _, line in self.lines)

    def time_of(self, start: str, after: float = 0.0) -> float:
        """Of the first line that begins so and came later."""
        return next(time for time, line in self.lines if line.startswith(start) and time > after)


def run(module: str, *words: str, timeout: float = 400, **environment: str) -> Done:
    command, known = [sys.executable, "-m", module, *words], ENVIRONMENT | environment
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=known)
        too_late = threading.Timer(timeout, process.kill)
        too_late.start()
        lines = [(time.monotonic(), line) for line in process.stdout]
        process.wait()
        too_late.cancel()
        errors.seek(0)
        return Done(process.returncode, lines, errors.read())


def harmless(line: str) -> bool:
    """Whether a difference is that something was lost and asked again."""
    return any(count in line.partition(":")[0] for count in COUNTS)


class Undisturbed:
    """Runs that nothing happened to, made when they are first asked for."""

    def __init__(self, folder: Path, *words: str) -> None:
        self._folder, self._words, self._seconds = folder, words, dict[int, float]()

    def seconds(self, capacity: int) -> float:
        """Of a step."""
        if capacity not in self._seconds:
            words = [f"run.dir={self._folder}", f"run.name=capacity-{capacity}", f"driver.capacity={capacity}"]
            done = self._run(*words, *COMMON, *self._words)
            assert done.returncode == 0, done.stderr
            self._seconds[capacity] = (done.time_of("step 5/") - done.time_of("step 2/")) / 3
        return self._seconds[capacity]

    def _run(self, *words: str) -> Done:
        return run("mel_ray.main", *words)

    def unlike(self, folder: Path) -> list[str]:
        """Where the numbers of a run with capacity 0 differ."""
        self.seconds(0)
        found = differences(numbers(self._folder / "capacity-0"), numbers(folder))
        return [line for line in found if not harmless(line)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Undisturbed:
    return Undisturbed(tmp_path_factory.mktemp("undisturbed"))


def assert_whole(folder: Path, steps: int = STEPS) -> None:
    rows = steps_of(folder)
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    assert all(Ledger.from_dict(row["ledger"]).is_balanced for row in rows)
    assert (folder / "export" / "model.safetensors").exists()
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["ledger_balanced"]) == ("done", steps, True)
    for kind in ("experiences", "trajectories"):
        assert {file.name for file in (folder / kind).iterdir()} <= {
            f"step-{n:06d}.parquet" for n in range(1, steps + 1)
        }
    wait_until(lambda: processes_using(folder) == [] and orphans() <= ORPHANS, seconds=30)


def incidents(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "incidents.jsonl").read_text().splitlines()]


def told(victim: str, moment: str, capacity: int, seconds: float, usual: float) -> None:
    """For the table in docs/operations.md."""
    what = f"{victim}, {moment}, capacity {capacity}"
    print(f"{what}: the step under way was done {seconds:.1f} s later (undisturbed, a step takes {usual:.1f} s)")


def under_way(step: int, moment: str) -> str:
    """How the line of the step begins that is under way at a moment of a step: a checkpoint is written during the
    next."""
    return f"step {step + (moment == 'checkpoint')}/"


def rows() -> list:
    every = [(victim, moment, capacity) for capacity in (0, 1) for victim in VICTIMS for moment in MOMENTS]
    return [pytest.param(*row, marks=() if row in QUICK else pytest.mark.slow) for row in every]


@pytest.mark.parametrize(("victim", "moment", "capacity"), rows())
def test_a_process_dies(tmp_path, undisturbed, victim, moment, capacity):
    step, folder, usual = 4, tmp_path / "faulty", undisturbed.seconds(capacity)
    overrides = [f"run.dir={tmp_path}", "run.name=faulty", f"driver.capacity={capacity}", *COMMON]
    done = run("tests.faults.faulty", victim, moment, str(step), "SIGKILL", *overrides)
    killed = done.time_of(f"SIGKILL to the {victim}")
    if victim == "driver":
        assert done.returncode == -9
        wait_until(lambda: processes_using(folder) == [], seconds=30)
        done = run("mel_ray.main", *overrides, "run.resume=auto")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    told(victim, moment, capacity, done.time_of(under_way(step, moment), killed) - killed, usual)
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
@pytest.mark.parametrize(
    ("victim", "moment"),
    [("engine", "train"), ("verifier", "train"), ("policy", "train"),
     ("engine", "explore"), ("verifier", "explore"), ("policy", "publish"), ("policy", "checkpoint")],
)  # fmt: skip
def test_a_process_hangs(tmp_path, undisturbed, victim, moment):
    folder = tmp_path / "faulty"
    overrides = [f"run.dir={tmp_path}", "run.name=faulty", "cluster.deadlines.hang=15", *COMMON]
    done = run("tests.faults.faulty", victim, moment, "4", "SIGSTOP", *overrides)
    assert done.returncode == 0, done.stderr
    assert_whole(folder)
    lost = next(one for one in incidents(folder) if one["kind"] == "lost")
    assert "no answer within 15 s" in lost["text"]
    assert undisturbed.unlike(folder) == []


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "sentence"), [("home", "(raylet) is gone"), ("gcs", "(GCS) has not answered")])
def test_ray_itself_dies_where_the_driver_is(tmp_path, victim, sentence):
    overrides = [f"run.dir={tmp_path}", "run.name=faulty", *COMMON]
    done = run("tests.faults.faulty", victim, "train", "4", "SIGKILL", *overrides, "run.steps=1000")
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "run.resume=auto goes on from the last checkpoint" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.lines[-1][0] - done.time_of(f"SIGKILL to the {victim}") < 90
    steps = len(steps_of(tmp_path / "faulty")) + 1
    assert run("mel_ray.main", *overrides, "run.resume=auto", f"run.steps={steps}").returncode == 0
    assert [row["step"] for row in steps_of(tmp_path / "faulty")] == list(range(1, steps + 1))


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
