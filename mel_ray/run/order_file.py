"""order.jsonl: by which weights everything of a step was sampled; what `run.replay_order` repeats."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mel_ray.config.schema import Config
from mel_ray.records.ports import Sample
from mel_ray.records.problem import Problem
from mel_ray.records.row import Row, attempts, drafts
from mel_ray.run.stored_config import read_stored_config


def versions_of(rows: Iterable[Row]) -> dict[Sample, int]:
    """The weights of everything that was sampled for the questions of a step."""
    rows, found = list(rows), {}
    for row in attempts(rows):
        found[row.question_id, "rollout"] = row.versions[0]
    for row in drafts(rows):
        written = row.question_id, "drafts"
        found[written] = max(row.versions[0], found.get(written, -1))  # -1 of one that did not fit and was not written
        for replay in row.replays:
            found[row.question_id, f"replay-{row.index}"] = replay.versions[0]
    return found


def order_line(step: int, rows: Iterable[Row]) -> str:
    return json.dumps({"step": step, "sampled": [[*sample, version] for sample, version in versions_of(rows).items()]})


def read_order(file: Path) -> dict[int, dict[Sample, int]]:
    """By step. A last line that was cut off by the end of the process is ignored.

    Raises:
        ValueError, KeyError, TypeError: the file is damaged.
    """
    steps: dict[int, dict[Sample, int]] = {}
    for line in file.read_text(encoding="utf-8").split("\n")[:-1]:
        row: dict[str, Any] = json.loads(line)
        steps[int(row["step"])] = {(name, what): int(version) for name, what, version in row["sampled"]}
    return steps


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
    own = config.model_dump(mode="json")
    pairs = [(section, stored.get(section), own[section]) for section in SAMPLED_BY]
    run = stored.get("run", {})
    pairs += [("run.seed", run.get("seed"), config.run.seed), ("run.steps", run.get("steps"), config.run.steps)]
    problems = [
        problem
        for key, theirs, mine in pairs
        for problem in _differences(key, theirs, mine, f"run {name} cannot be repeated with it, because that run had")
    ]
    missing = [step for step in range(1, config.run.steps + 1) if step not in steps]
    if missing and not problems:
        why = f"run {name} is not finished: step {missing[0]} of {config.run.steps} is missing in {file.name}"
        problems.append(Problem("run.replay_order", name, why, "finish that run with run.resume=auto first"))
    yield from problems


def _differences(key: str, theirs: Any, mine: Any, words: str) -> Iterator[Problem]:
    if isinstance(theirs, Mapping) and isinstance(mine, Mapping):
        for name in theirs.keys() & mine.keys():  # a key that only one version of mel_ray knows says nothing
            yield from _differences(f"{key}.{name}", theirs[name], mine[name], words)
    elif theirs != mine:
        yield Problem(key, mine, f"{words} {theirs}", "give both the same value, or leave run.replay_order out")
