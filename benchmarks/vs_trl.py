"""python -m benchmarks.vs_trl --trl-python .venv-trl/bin/python: our GRPO step against TRL's GRPOTrainer.

Same model, questions, group size and lengths, MEL off, steps alternating in one run on one machine: (a) the
embedded workload with a cap of 64 tokens; (b) long-tailed completions with a cap of 512, from a model
made to forget its end now and then. Prints trajectories per second of both, and where our time goes. Then as many
steps of ours with partial rollouts, exploring ahead. TRL's AsyncGRPOTrainer is not here: it sends weights by NCCL only.
"""

import argparse
import asyncio
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.async_step import ARMS, Arm
from benchmarks.common import long_context_model, loop_for, running_pools
from benchmarks.figures import finish, median
from mel_ray.data.datasets import load
from mel_ray.driver.loop import Loop
from mel_ray.driver.state import RunState

WORKLOADS = {"embedded": (64, 1.0, 12), "long_tail": (512, 0.28, 4)}  # cap in tokens, end-token scale, rounds
PROMPTS, GROUP = 16, 8


class Trl:
    """TRL in a process of its own, stepping on demand."""

    def __init__(self, python: str, job: dict[str, object]) -> None:
        script = Path(__file__).with_name("trl_worker.py")
        task = Path(str(job["scratch"])) / "job.json"
        task.write_text(json.dumps(job))
        self._process = subprocess.Popen(
            [python, str(script), str(task)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        self._line("READY")

    def _line(self, start: str) -> str:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith(start):
                return line.removeprefix(start)
        raise SystemExit("TRL's process ended; run benchmarks/trl_worker.py by hand to see why")

    def step(self) -> dict[str, float]:
        assert self._process.stdin
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return json.loads(self._line("STEP "))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


async def compare(python: str, model: Path, cap: int, rounds: int) -> dict[str, float]:
    overrides = [
        f"model.path={model}", "model.max_context=640",
        f"rollout.max_tokens={cap}", "rollout.temperature=1.0",
        f"rollout.prompts_per_step={PROMPTS}", f"rollout.group_size={GROUP}", "mel.enabled=false", "algorithm.lr=1e-6",
        "eval.benchmarks=[]", "eval.max_tokens=64",
    ]  # fmt: skip
    state = RunState()
    async with running_pools(overrides) as (config, prepared, pools):
        questions = [(f"Problem: {q.text}", q.truth.answer) for q in load(config.data.train).questions]
        with tempfile.TemporaryDirectory() as scratch:
            job = {"model": str(model), "questions": questions, "prompts": PROMPTS, "group": GROUP, "threads": 2}
            trl = Trl(python, job | {"max_tokens": cap, "temperature": 1.0, "scratch": scratch})
            try:
                ours, theirs = await _alternate(loop_for(config, prepared, pools, state), trl, rounds)
            finally:
                trl.close()
        ahead = Arm("partial", [*overrides, "algorithm.importance_cap=2", *ARMS["partial"]])
        await ahead.block(prepared, pools, rounds, state.version)
    our_seconds, their_seconds = median([r["time/step"] for r in ours]), median([r["seconds"] for r in theirs])
    batch = PROMPTS * GROUP
    return {
        "mel_ray_step_s": our_seconds,
        "mel_ray_explore_s": median([r["time/explore"] for r in ours]),
        "mel_ray_train_s": median([r["time/train"] for r in ours]),
        "mel_ray_publish_s": median([r["time/publish"] for r in ours]),
        "mel_ray_mean_tokens": median([r["rollout/length_mean"] for r in ours]),
        "mel_ray_max_tokens": max(r["rollout/length_max"] for r in ours),
        "mel_ray_trained_sequences": median([r["batch/trained_sequences"] for r in ours]),
        "mel_ray_trajectories_per_s": batch / our_seconds,
        "trl_step_s": their_seconds,
        "trl_mean_tokens": median([r["mean_tokens"] for r in theirs]),
        "trl_max_tokens": max(r["max_tokens"] for r in theirs),
        "trl_trajectories_per_s": batch / their_seconds,
        "speedup": their_seconds / our_seconds,
        "mel_ray_partial_step_s": ahead.seconds,
        "partial_speedup": their_seconds / ahead.seconds,
    }


async def _alternate(loop: Loop, trl: Trl, rounds: int) -> tuple[Sequence[dict], Sequence[dict]]:
    ours, theirs = [], []
    for step in range(1, rounds + 2):
        report = await loop.step(step)
        measured = await asyncio.to_thread(trl.step)
        if step > 1:  # the first round warms up
            ours.append(dict(report.metrics))
            theirs.append(measured)
            print(
                f"  round {step - 1}: mel_ray {report.metrics['time/step']:.2f} s, TRL {measured['seconds']:.2f} s",
                flush=True,
            )
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trl-python", required=True, help="python of the environment that `make bench-setup` makes")
    parser.add_argument("--rounds", type=int, help="rounds of each workload")
    arguments = parser.parse_args()
    figures: dict[str, float] = {}
    for name, (cap, end_scale, rounds) in WORKLOADS.items():
        print(f"{name}: {PROMPTS} prompts x {GROUP}, cap {cap}", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            model = long_context_model(Path(scratch) / "model", end_scale)
            measured = asyncio.run(compare(arguments.trl_python, model, cap, arguments.rounds or rounds))
        figures |= {f"{name}_{key}": value for key, value in measured.items()}
    finish(figures)


if __name__ == "__main__":
    main()
