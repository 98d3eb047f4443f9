"""python -m benchmarks.async_sim: MEL's step over GRPO's at 8 to 64 engines, for every way to overlap the two halves.

The driver and the engine queue are the real ones; the pools are a discrete-event model in virtual time
(benchmarks/simulated.py). Answers are lognormal with a tail of 20 times their mean, so that engines idle in the tail.
As many devices train as sample. Two parts of the driver's cost are not in the model: Ray's own work for a call, and
the archive.

`--calibrate` measures the model's constants on vLLM on this machine's CPU instead.
"""

import argparse
import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from benchmarks.figures import finish
from benchmarks.simulated import Lengths, Rates, Simulation, Workload
from benchmarks.simulated_engines import EngineRates
from benchmarks.simulated_time import simulate
from benchmarks.step_overlap import StagedExplorer
from mel_ray.config.load import compose_config
from mel_ray.driver.explorer import Explorer
from mel_ray.driver.loop import Loop
from mel_ray.records.ledger import TrajectoryFate
from mel_ray.records.row import Row, RowKind
from mel_ray.records.trajectory import Sampling

# An 8B model on one H100.
# Decoding: NVIDIA publishes 4.63 ms between tokens with 1 request of Llama-3.1-8B-Instruct, 5.19 with 25, 5.91 with 50
# and 7.57 with 100 (docs.nvidia.com/nim/benchmarking/llm/1.0.0/performance, NIM 1.8.0): about 4.5 + 0.03 per sequence.
# Prefill: 16 GFLOP a token at half of the 989 TFLOP/s that NVIDIA gives for dense bfloat16.
# Training: 6,667 tokens/s and GPU (FSDP and torch.compile; benchmarks/llama3_h100_202412_torchtitan.md of torchtitan).
# Judging, the fixed part of an update and a publish are guesses.
H100 = Rates(EngineRates(4.5e-3, 3e-5, 3.2e-5, slots=128), judge=0.05, train=1 / 6667, update=0.5, publish=2.0)
WORKLOAD = Workload(answers=Lengths(1000, 20_000), drafts=Lengths(400, 2000), prompt_tokens=200)
PROMPTS = 8  # of each engine and step, 8 trajectories each
WARM_UP = 4
STEPS = {8: 32, 16: 24, 32: 16, 64: 12}  # after the warm-up: fewer where one step averages over more

IN_FLIGHT = "driver.publish=in_flight"
MODES: dict[str, tuple[type[Explorer], tuple[str, ...]]] = {
    "barriers": (StagedExplorer, ()),
    "streaming": (Explorer, ()),
    "capacity_1": (Explorer, ("driver.capacity=1",)),
    "in_flight": (Explorer, ("driver.capacity=1", IN_FLIGHT)),
    "partial": (Explorer, ("rollout.partial=true", IN_FLIGHT)),
    "partial_capacity_1": (Explorer, ("rollout.partial=true", "driver.capacity=1", IN_FLIGHT)),
    "partial_wide": (
        Explorer,
        ("rollout.partial=true", "driver.capacity=1", IN_FLIGHT, "rollout.oversample=2", "driver.max_staleness=8"),
    ),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """Per step, in the steady state: simulated seconds; tokens sampled and tokens of rows trained; this process's CPU
    seconds, all of them and those of the engine model. Shares: of the engines' time, the ranks' time, and the attempts
    that were too old. `ages`: versions by which a trained attempt's oldest token was behind, mean and largest."""

    seconds: float
    sampled: float
    trained: float
    cpu: float
    cpu_of_model: float
    engines_busy: float
    ranks_busy: float
    stale: float
    mean_age: float
    largest_age: int


def measure(mode: str, engines: int, with_mel: bool, steps: int, overrides: Sequence[str] = ()) -> Measured:
    explorer, own = MODES[mode]
    config = compose_config(
        [
            f"run.steps={2 * (WARM_UP + steps)}",  # so that the end, where nothing is explored ahead, is not measured
            f"cluster.rollout.engines={engines}",
            f"cluster.rollout.max_sequences={H100.engine.slots}",
            f"cluster.policy.ranks={engines}",
            "cluster.policy.token_budget=65536",
            f"rollout.prompts_per_step={PROMPTS * engines}",
            "rollout.group_size=8",
            f"rollout.max_tokens={WORKLOAD.answers.most}",
            f"mel.max_tokens={WORKLOAD.drafts.most}",
            f"mel.enabled={with_mel}".lower(),
            "algorithm.importance_cap=2",
            *own,
            *overrides,
        ]
    )
    questions = 3 * (WARM_UP + steps) * PROMPTS * engines
    return simulate(_measure(Simulation(config, H100, WORKLOAD, questions, explorer), steps))


class Tally:
    """An archive that counts and keeps no row, so that the driver's garbage is what it is in a run."""

    def __init__(self, loop: Callable[[], Loop]) -> None:
        self._loop = loop
        self.sampled = self.tried = self.stale = 0
        self.ages: list[int] = []

    async def record(self, step: int, rows: Sequence[Row], version: int = 0) -> None:
        version = self._loop().state.version
        for row in rows:
            self.sampled += row.tokens + sum(replay.tokens for replay in row.replays)
            if row.kind is RowKind.ATTEMPT:
                self.tried += 1
                self.stale += row.fate is TrajectoryFate.STALE
                if row.fate is TrajectoryFate.TRAINED:
                    self.ages.append(version - row.versions[0])


async def _measure(simulation: Simulation, steps: int) -> Measured:
    policy, engines, world = simulation.policy, simulation.pool.engines, simulation.world
    policy.updates = world.sampled = None
    loop = simulation.loop
    for step in range(1, WARM_UP + 1):
        await loop.step(step)
    loop.learner.archive = tally = Tally(lambda: loop)

    def taken() -> np.ndarray:
        of_model = world.cpu_seconds + sum(one.cpu_seconds for one in engines)
        busy = sum(one.busy_seconds for one in engines) / len(engines)
        now = asyncio.get_running_loop().time()
        return np.array([now, policy.trained, time.process_time(), of_model, busy, policy.busy])

    before = taken()
    for step in range(WARM_UP + 1, WARM_UP + steps + 1):
        await loop.step(step)
    seconds, trained, cpu, of_model, engines_busy, ranks_busy = (float(value) for value in taken() - before)
    await loop.buffer.close()
    return Measured(
        seconds=seconds / steps,
        sampled=tally.sampled / steps,
        trained=trained / steps,
        cpu=cpu / steps,
        cpu_of_model=of_model / steps,
        engines_busy=engines_busy / seconds,
        ranks_busy=ranks_busy / seconds,
        stale=tally.stale / tally.tried,
        mean_age=sum(tally.ages) / len(tally.ages),
        largest_age=max(tally.ages),
    )


def compare(counts: Sequence[int], modes: Sequence[str], overrides: Sequence[str]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    print(f"{'engines':>7} {'mode':<19} {'GRPO s':>7} {'MEL s':>7} {'ratio':>6} {'tokens':>6} {'vs sync':>7} "
          f"{'engines':>7} {'ranks':>6} {'stale':>6} {'age':>5} {'driver':>7}")  # fmt: skip
    for engines in counts:
        synchronous = None
        for mode in modes:
            steps = STEPS.get(engines, 12)
            grpo = measure(mode, engines, False, steps, overrides)
            mel = measure(mode, engines, True, steps, overrides)
            if mode == "streaming":
                synchronous = grpo.seconds
            driver = max((one.cpu - one.cpu_of_model) / one.seconds for one in (grpo, mel))
            found = {
                "grpo_s": grpo.seconds,
                "mel_s": mel.seconds,
                "mel_over_grpo": mel.seconds / grpo.seconds,
                "mel_over_grpo_sampled": mel.sampled / grpo.sampled,
                "mel_over_grpo_trained": mel.trained / grpo.trained,
                "mel_engines_busy": mel.engines_busy,
                "mel_ranks_busy": mel.ranks_busy,
                "mel_stale_share": mel.stale,
                "mel_mean_age": mel.mean_age,
                "mel_largest_age": mel.largest_age,
                "driver_share": driver,
                "driver_and_model_share": max(one.cpu / one.seconds for one in (grpo, mel)),
            }
            if synchronous:
                found["mel_over_synchronous_grpo"] = mel.seconds / synchronous
            figures |= {f"{engines}_{mode}_{name}": value for name, value in found.items()}
            against = f"{mel.seconds / synchronous:7.2f}" if synchronous else f"{'':7}"
            print(f"{engines:>7} {mode:<19} {grpo.seconds:7.1f} {mel.seconds:7.1f} {found['mel_over_grpo']:6.2f} "
                  f"{found['mel_over_grpo_sampled']:6.2f} {against} {mel.engines_busy:7.0%} {mel.ranks_busy:6.0%} "
                  f"{mel.stale:6.1%} {mel.mean_age:5.2f} {driver:7.2%}", flush=True)  # fmt: skip
    return figures


# -- calibration


async def calibrate() -> dict[str, float]:
    """The engine model's constants on vLLM, CPU, with the embedded model: least squares over batches of several sizes.

    A batch of sequences that start together takes step * longest + sequence * tokens + prefill * prompt tokens.
    """
    from mel_ray.actors.process import CPU_ENGINE_ENV, ENGINE_ENV
    from mel_ray.data.prepare import prepare
    from mel_ray.rollout.vllm_engine import EngineSettings, VllmEngine

    os.environ.update({**ENGINE_ENV, **CPU_ENGINE_ENV, "OMP_NUM_THREADS": "1"})
    config = compose_config([])
    engine = VllmEngine(EngineSettings.of(config, prepare(config).model_folder), lambda tokens: "", ())
    random, work, seconds = Random(0), [], []
    for repetition in range(4):
        for sequences in (1, 4, 16, 64, 128, 256):
            for prompt_tokens in (16, 128):
                prompts = [[random.randrange(16, 700) for _ in range(prompt_tokens)] for _ in range(sequences)]
                began = time.perf_counter()
                groups = await asyncio.gather(
                    *(engine.sample(one, Sampling((random.randrange(2**31),), 1.0, 96)) for one in prompts)
                )
                taken = time.perf_counter() - began
                if repetition:  # the first warms up
                    lengths = [len(group[0].token_ids) for group in groups]
                    work.append([max(lengths), sum(lengths), prompt_tokens * sequences])
                    seconds.append(taken)
    # Relative errors count, so that small batches count as much as large ones.
    scale = 1 / np.array(seconds)
    found, *_ = np.linalg.lstsq(np.array(work) * scale[:, None], np.ones(len(seconds)), rcond=None)
    off = np.abs(np.array(work) @ found * scale - 1)
    step, sequence, prefill = (float(value) for value in found)
    print(f"a decode step {step * 1e3:.2f} ms + {sequence * 1e3:.4f} ms a sequence, a prompt token "
          f"{prefill * 1e3:.4f} ms; off by {np.median(off):.0%} (median) and {off.max():.0%} (most)")  # fmt: skip
    in_ms = {"step_ms": step * 1e3, "sequence_ms": sequence * 1e3, "prefill_ms": prefill * 1e3}
    return in_ms | {"median_error": float(np.median(off)), "largest_error": float(off.max())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--calibrate", action="store_true", help="measure the model's constants on vLLM, CPU")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    if arguments.calibrate:
        finish(asyncio.run(calibrate()))
    else:
        finish(compare(arguments.engines, arguments.modes, arguments.overrides))


if __name__ == "__main__":
    main()
