"""python -m tests.faults.faulty VICTIM MOMENT STEP SIGNAL KEY=VALUE ...: `mel train`, which loses a process.

The driver of this process is wrapped, so that the signal is sent when the step has come to the moment: the product
knows nothing of it. After `+TIMES`, as in `SIGKILL+4`, the same happens again that often to those who took its place.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import psutil

VICTIMS = ("engine", "experience", "verifier", "child", "policy", "driver")
MOMENTS = ("explore", "train", "publish", "checkpoint")


def pid_of(actor: Any) -> int:
    return os.getpid()


class Fault:
    def __init__(self, victim: str, moment: str, step: int, what: str) -> None:
        name, _, times = what.partition("+")
        self.victim, self.moment, self.step, self.signal = victim, moment, step, signal.Signals[name]
        self.left, self.victims = int(times or 1), dict[str, int]()

    async def find(self, pools: Any) -> None:
        """Before there is work, because an actor that is busy would not answer."""
        handles = {
            "engine": pools.engines.engines[0].handle,
            "experience": pools.experience.members.all[0].handle,
            "verifier": pools.rewards.members.all[0]._handle,
            "policy": pools.policy.handles[-1],
        }
        self.victims = {name: await one.actor.__ray_call__.remote(pid_of) for name, one in handles.items()}
        self.victims["driver"] = os.getpid()
        raylets = [
            psutil.Process(await one.handle.actor.__ray_call__.remote(pid_of)).ppid() for one in pools.engines.engines
        ]
        self.victims["home"] = home = psutil.Process(self.victims["policy"]).ppid()  # the raylet there
        own = {one.name(): one.pid for one in psutil.Process().children()}
        self.victims["gcs"] = own.get("gcs_server", 0)
        self.victims["raylet"] = next((one for one in raylets if one != home), 0)  # of an engine that is elsewhere
        if self.victim == "memory":
            await handles["policy"].actor.__ray_call__.remote(allow_tokens, 1000)

    def strike(self, state_step: int) -> None:
        """`state_step`: the last finished step."""
        if not self.left or state_step != self.step - 1:
            return
        self.left -= 1
        if self.victim == "memory":
            return
        victim = self.victims.get(self.victim) or child_of(self.victims["verifier"])
        what = f"{self.signal.name} to the {self.victim}, process {victim}"
        print(f"{what}, at {self.moment} of step {self.step}", flush=True)
        os.kill(victim, self.signal)


def allow_tokens(actor: Any, most: int) -> None:
    """From now on the rank's memory suffices for microbatches of at most so many tokens."""
    import torch

    update = actor._policy.update

    def limited(steps: Any, settings: Any) -> Any:
        for _, microbatches in steps:
            for microbatch in microbatches:
                if len(microbatch) * max(len(one.token_ids) for one in microbatch) > most:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return update(steps, settings)

    actor._policy.update = limited


def child_of(process: int) -> int:
    """The judging process."""
    return psutil.Process(process).children()[0].pid


def during(method: Callable, strike: Callable[[], None]) -> Callable:
    """The same coroutine function, which strikes once its first call is under way."""

    @wraps(method)
    async def wrapped(*arguments: Any, **named: Any) -> Any:
        task = asyncio.ensure_future(method(*arguments, **named))
        for _ in range(3):  # until what it calls has been sent
            await asyncio.sleep(0)
        strike()
        return await task

    return wrapped


def install(fault: Fault) -> None:
    from mel_ray.driver import wiring
    from mel_ray.policy.policy_pool import PolicyPool
    from mel_ray.rollout.rollout_pool import RolloutPool

    make_loop, finished = wiring.make_loop, [0]

    def noting(config: Any, pools: Any, prompts: Any, archive: Any, state: Any, *others: Any) -> Any:
        loop = make_loop(config, pools, prompts, archive, state, *others)
        run = loop.run

        async def run_with_victims(watch: Any) -> None:
            await fault.find(pools)
            await run(watch)

        loop.run = run_with_victims
        finished[0] = state
        return loop

    wiring.make_loop = noting
    owner, name = {
        "explore": (RolloutPool, "generate"),
        "train": (PolicyPool, "train"),
        "publish": (PolicyPool, "send"),
        "checkpoint": (PolicyPool, "write"),
    }[fault.moment]
    # A checkpoint is written after its step.
    before = fault.moment == "checkpoint"
    setattr(owner, name, during(getattr(owner, name), lambda: fault.strike(finished[0].step - before)))


def main() -> int:
    from mel_ray.cli.app import run_command
    from mel_ray.cli.train import train

    victim, moment, step, what, *overrides = sys.argv[1:]
    install(Fault(victim, moment, int(step), what))
    return run_command(train, overrides)


if __name__ == "__main__":
    sys.exit(main())
