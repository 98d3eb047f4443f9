"""python -m benchmarks.soak: does a long run keep more and more? Memory, descriptors and shared memory, by process.

Trains the embedded default for `--steps` steps and looks at all its processes every few seconds. Each slope is that of
a line through the values after the first third of the steps, with its standard error; the plot goes to `--plot`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import psutil

from benchmarks.figures import finish

ROLES = {
    "ray::EngineActor": "engines", "VLLM::": "engines", "ray::PolicyActor": "policy", "ray::VerifierActor": "verifier",
    "ray::ExperienceActor": "experience", "mel_ray.rewards.child": "judging process", "mel_ray.main": "driver",
    "raylet": "Ray", "gcs_server": "Ray", "dashboard": "Ray", "log_monitor": "Ray", "monitor.py": "Ray", "ray::": "Ray",
}  # fmt: skip
MB = 1_000_000
SETTLED = 1 / 3  # of the steps, which caches and pools need to fill
Sample = dict[str, float]  # "<role>, MB" or "<role>, descriptors" -> value


def role_of(command: str) -> str:
    return next((role for words, role in ROLES.items() if words in command), "others")


def proportional_size(process: int) -> float:
    """Bytes of memory, those that are shared divided among who shares them."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return float(line.split()[1]) * 1024
    return 0.0


def look(run: psutil.Process) -> Sample:
    found: dict[str, float] = defaultdict(float)
    for process in [run, *run.children(recursive=True)]:
        try:
            role = role_of(" ".join(process.cmdline()))
            found[f"{role}, MB"] += proportional_size(process.pid) / MB
            found[f"{role}, descriptors"] += process.num_fds()
        except (psutil.Error, OSError):
            continue  # it has just ended
    shared = sum(file.stat().st_blocks * 512 for file in Path("/dev/shm").iterdir() if file.is_file())
    return {**found, "/dev/shm, MB": shared / MB}


def steps_done(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return max((int(json.loads(line)["step"]) for line in lines if line.endswith("}")), default=0)


def slope(steps: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Of a line by least squares, per step, and its standard error."""
    x, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    centred = x - x.mean()
    spread = float((centred**2).sum())
    if len(x) < 3 or not spread:
        return 0.0, 0.0
    rise = float((centred * (y - y.mean())).sum()) / spread
    rest = y - y.mean() - rise * centred
    return rise, float(np.sqrt((rest**2).sum() / (len(x) - 2) / spread))


def plot(seen: Sequence[tuple[int, Sample]], names: Sequence[str], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for name in names:
        axes.plot(
            [step for step, _ in seen], [sample.get(name, 0.0) for _, sample in seen], label=name.partition(",")[0]
        )
    axes.set(xlabel="step", ylabel="memory in MB, shared parts divided", yscale="log")
    axes.legend(fontsize=8, ncols=2)
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def watch(words: Sequence[str], steps: int, every: float) -> list[tuple[int, Sample]]:
    """Step and what was seen, until the run ends."""
    seen: list[tuple[int, Sample]] = []
    with tempfile.TemporaryDirectory(prefix="soak_") as scratch:
        keys = [f"run.dir={scratch}", "run.name=soak", f"run.steps={steps}", "eval.before=false", "eval.after=false"]
        run = subprocess.Popen([sys.executable, "-m", "mel_ray.main", *keys, *words], stdout=subprocess.DEVNULL)
        process = psutil.Process(run.pid)
        while run.poll() is None:
            step = steps_done(Path(scratch) / "soak")
            if step and (not seen or step > seen[-1][0]):
                seen.append((step, look(process)))
            time.sleep(every)
        if run.returncode:
            raise SystemExit(f"the run ended with {run.returncode}")
    return seen[:-1]  # the last one may have seen its end


def slopes(seen: Sequence[tuple[int, Sample]], steps: int) -> Mapping[str, tuple[float, float, float]]:
    """By name: the value at the end, the slope per step, and its standard error."""
    settled = [(step, sample) for step, sample in seen if step > steps * SETTLED]
    found = {}
    for name in sorted({name for _, sample in settled for name in sample}):
        values = [sample.get(name, 0.0) for _, sample in settled]
        found[name] = (values[-1], *slope([step for step, _ in settled], values))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two looks")
    parser.add_argument("--plot", type=Path, default=Path("runs/soak.png"))
    parser.add_argument("keys", nargs="*", help="key=value of the run")
    arguments = parser.parse_args()
    seen = watch(arguments.keys, arguments.steps, arguments.every)
    found = slopes(seen, arguments.steps)
    print(f"{'':<28}{'at the end':>12}{'a step':>12}{'error':>10}")
    for name, (last, rise, error) in found.items():
        print(f"{name:<28}{last:>12.1f}{rise:>12.4f}{error:>10.4f}")
    arguments.plot.parent.mkdir(parents=True, exist_ok=True)
    plot(seen, [name for name in found if name.endswith(", MB")], arguments.plot)
    print(f"plot: {arguments.plot}")
    finish({f"{name.replace(', ', '_').replace(' ', '_')}_per_step": rise for name, (_, rise, _) in found.items()})


if __name__ == "__main__":
    main()
