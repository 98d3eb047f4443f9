"""order.jsonl: by which weights everything of a step was sampled; what `run.replay_order` repeats."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mel_ray.config.schema import Config
from mel_ray.records.ports import Sample
from mel_ray.records.problem import Problem, counted
from mel_ray.records.row import Row, RowKind, attempts, drafts
from mel_ray.run.stored_config import read_stored_config


def versions_of(rows: Iterable[Row]) -> dict[Sample, int]:
    """The weights of everything that was sampled for the questions of a step."""
    rows, found = list(rows), {}
    for row in attempts(rows):
        found[row.question_id, "rollout"] = row.versions[0]
    for row in rows:
        if row.kind is RowKind.RESAMPLED:
            found[row.question_id, row.kind.value] = row.versions[0]
        for replay in row.replays if row.kind is RowKind.RECALLED else ():
            found[row.question_id, row.kind.value] = replay.versions[0]
    for row in drafts(rows):
        written = row.question_id, "drafts"
        found[written] = max(row.versions[0], found.get(written, -1))  # -1 of one that did not fit and was not written
        for replay in row.replays:
            found[row.question_id, f"replay-{row.index}"] = replay.versions[0]
    return found


@dataclass(frozen=True, slots=True)
class StepOrder:
    """`version`: the weights that the policy had when it trained on the step. `is_repeatable`: nothing of it depended
    on when an update came."""

    version: int
    is_repeatable: bool
    sampled: Mapping[Sample, int]


def order_line(step: int, rows: Iterable[Row], version: int, is_repeatable: bool) -> str:
    """`is_repeatable`: the run publishes to empty engines, and its questions make up batches in the data's order."""
    rows = list(rows)
    is_whole = all(one.versions[0] == one.versions[1] for row in rows for one in (row, *row.replays))
    sampled = [[*sample, of_sample] for sample, of_sample in versions_of(rows).items()]
    return json.dumps({"step": step, "version": version, "repeatable": is_repeatable and is_whole, "sampled": sampled})


def read_order(file: Path) -> dict[int, StepOrder]:
    """By step. A last line that was cut off by the end of the process is ignored.

    Raises:
        ValueError, KeyError, TypeError: the file is damaged.
    """
    steps: dict[int, StepOrder] = {}
    for line in file.read_text(encoding="utf-8").split("\n")[:-1]:
        row: dict[str, Any] = json.loads(line)
        sampled = {(name, what): int(version) for name, what, version in row["sampled"]}
        steps[int(row["step"])] = StepOrder(int(row["version"]), bool(row["repeatable"]), sampled)
    return steps


def capacity_of(steps: Mapping[int, StepOrder]) -> int:
    """How many batches ahead a run must explore so that all of these can be sampled by their weights.

    What version w sampled was asked for before the policy trained to w + 1, so its batch was begun at the latest with
    the last step that the policy took at w.
    """
    needed = 0
    for step, one in steps.items():
        for version in set(one.sampled.values()):
            begun = [other for other, of in steps.items() if other <= step and of.version <= version]
            needed = max(needed, step - max(begun, default=step))
    return needed


SAMPLED_BY = ("model", "data", "reward", "rollout", "algorithm", "driver", "mel")  # what is sampled depends on these


def find_order_problems(config: Config, file: Path) -> Iterator[Problem]:
    """Why the order in a file cannot be repeated: it cannot be read, or its run sampled something else.

    Samples that never come would be waited for without end.
    """
    name = config.run.replay_order
    try:
        steps, stored = read_order(file), read_stored_config(file.with_name("config.yaml"))
    except FileNotFoundError as error:
        why = f"there is no order of arrival: {error.filename} is missing"
        yield Problem("run.replay_order", name, why, "name a run in run.dir, or the folder of one")
        return
    except (ValueError, KeyError, TypeError, OSError) as error:
        yield Problem(
            "run.replay_order", name, f"{file.parent} cannot be read ({error})", "repeat another run, or leave it out"
        )
        return
    moving = next((step for step, one in sorted(steps.items()) if not one.is_repeatable), None)
    if moving is not None:
        why = f"step {moving} of run {name} was sampled in flight or in parts, which depends on time"
        yield Problem("run.replay_order", name, why, "name a run with driver.publish=drain and no partial rollouts")
        return
    own = config.model_dump(mode="json")
    pairs = [(section, stored.get(section), own[section]) for section in SAMPLED_BY]
    run = stored.get("run", {})
    pairs += [("run.seed", run.get("seed"), config.run.seed), ("run.steps", run.get("steps"), config.run.steps)]
    problems = [
        problem
        for key, theirs, mine in pairs
        for problem in _differences(key, theirs, mine, f"run {name} cannot be repeated with it, because that run had")
    ]
    needed = capacity_of(steps)
    if config.driver.capacity < needed and not problems:
        why = f"run {name} explored {counted(needed, 'batch', 'batches')} ahead, also if it went on with fewer"
        problems.append(Problem("driver.capacity", config.driver.capacity, why, f"set driver.capacity={needed}"))
    missing = [step for step in range(1, config.run.steps + 1) if step not in steps]
    if missing and not problems:
        why = f"run {name} is not finished: step {missing[0]} of {config.run.steps} is missing in {file.name}"
        problems.append(Problem("run.replay_order", name, why, "finish that run with run.resume=auto first"))
    yield from problems


def _differences(key: str, theirs: Any, mine: Any, words: str) -> Iterator[Problem]:
    if isinstance(theirs, Mapping) and isinstance(mine, Mapping):
        for name in theirs.keys() & mine.keys():  # a key that only one version of mel_ray knows says nothing
            if f"{key}.{name}" == "driver.capacity":
                continue  # it may change when a run goes on, so the steps themselves tell
            yield from _differences(f"{key}.{name}", theirs[name], mine[name], words)
    elif theirs != mine:
        yield Problem(key, mine, f"{words} {theirs}", "give both the same value, or leave run.replay_order out")
