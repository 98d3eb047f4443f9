"""Engines with continuous batching as a discrete-event model, lent by the real EnginePool.

A decode step takes `step + sequence * running` seconds and gives every running sequence one token; at most `slots`
sequences run, the rest queue inside. A prompt stops decoding while it is prefilled, once for all sequences that share
it. Between two changes of what is running the rate is constant, so an engine has one timer: its next completion.

Progress is counted in decode steps. A sequence that joins at progress p and has n tokens gets token k at p + k.
"""

import asyncio
import heapq
import itertools
import math
import time
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mel_ray.config.plan import make_plan
from mel_ray.config.schema import Config
from mel_ray.records.reports import EngineClock
from mel_ray.rollout.engine_pool import EnginePool

START = 20.0  # seconds of an engine that takes the place of another

Spans = tuple[tuple[int, int], ...]  # (tokens, version of the weights that sampled them), in order


@dataclass(frozen=True, slots=True)
class EngineRates:
    """In seconds; `slots` is the largest number of sequences that run at the same time."""

    step: float  # a decode step, however few sequences run
    sequence: float  # more for each of them
    prefill: float  # a token of a prompt
    slots: int


@dataclass(eq=False, slots=True)
class _Request:
    """Sequences with a prompt in common; `spans` fills as they end."""

    prompt_tokens: int
    lengths: tuple[int, ...]
    done: "asyncio.Future[None]"
    spans: dict[int, Spans] = field(default_factory=dict)
    is_prefilled: bool = False


class SimulatedEngine:
    """Samples lengths instead of tokens; takes weights as the real engine does: empty, or paused."""

    log: Path | None = None

    def __init__(self, name: str, rates: EngineRates) -> None:
        self.name, self._rates = name, rates
        self.handle: Any = None  # what RolloutPool asks
        self.running = 0  # sequences that the pool has lent it for
        self.cpu_seconds = 0.0  # that the model itself took
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[_Request, int]] = deque()
        self._active: list[tuple[float, int, float, _Request, int]] = []  # heap: end, ticket, start, request, index
        self._tickets = itertools.count()
        self._progress, self._debt, self._seen = 0.0, 0.0, self._loop.time()
        self._changes, self._versions = [-math.inf], [0]  # at which progress which weights came
        self._is_paused = self.has_suspect = False
        self._timer: asyncio.TimerHandle | None = None
        self._clock, self._told = [0.0] * 4, [0.0] * 4  # as EngineClock: from the beginning, and up to the last call

    async def sample(self, prompt_tokens: int, lengths: tuple[int, ...]) -> list[Spans]:
        """The versions of the tokens of every sequence."""
        request = _Request(prompt_tokens, lengths, self._loop.create_future())
        self._queue.extend((request, index) for index in range(len(lengths)))
        self._change()
        try:
            await request.done
        except asyncio.CancelledError:
            self._queue = deque(one for one in self._queue if one[0] is not request)
            self._advance()
            self._active = [one for one in self._active if one[3] is not request]
            heapq.heapify(self._active)
            self._change()
            raise
        return [request.spans[index] for index in range(len(lengths))]

    async def ready(self) -> None:
        await asyncio.sleep(START)

    async def ping(self, seconds: float) -> None:
        return None

    def kill(self) -> None:
        return None

    async def pause(self) -> None:
        self._advance()
        self._is_paused = True
        self._change()

    async def resume(self) -> None:
        self._advance()
        self._is_paused = False
        self._change()

    def load(self, version: int, keep_kv: bool) -> None:
        """New weights. With the cache cleared, all that is running is prefilled again.

        Raises:
            RuntimeError: the engine is decoding.
        """
        self._advance()
        if self._active and not self._is_paused:
            raise RuntimeError(f"{self.name} got weights while {len(self._active)} sequences were decoded")
        self._changes.append(self._progress)
        self._versions.append(version)
        if not keep_kv:
            prompts = {request: request.prompt_tokens for _, _, _, request, _ in self._active}
            again = sum(prompts.values()) + sum(int(self._progress - start) for _, _, start, _, _ in self._active)
            self._debt = again * self._rates.prefill
            self._clock[3] += again
        self._change()

    @property
    def busy_seconds(self) -> float:
        """From the beginning."""
        self._advance()
        return self._clock[0]

    async def take_counts(self) -> EngineClock:
        self._advance()
        busy, paused, sampled, recomputed = (all_ - told for all_, told in zip(self._clock, self._told, strict=True))
        self._told = list(self._clock)
        return EngineClock(busy, paused, int(sampled), int(recomputed))

    # -- the model

    @property
    def _step_seconds(self) -> float:
        return self._rates.step + self._rates.sequence * len(self._active)

    def _advance(self) -> None:
        """Bring the progress up to now."""
        now = self._loop.time()
        elapsed, self._seen = now - self._seen, now
        if self._is_paused:
            self._clock[1] += elapsed
        elif self._active:
            self._clock[0] += elapsed
            paid = min(self._debt, elapsed)
            self._debt -= paid
            self._progress += (elapsed - paid) / self._step_seconds

    def _change(self) -> None:
        """Fill the slots and set the timer."""
        began = time.process_time()
        self._advance()
        while self._queue and len(self._active) < self._rates.slots:
            request, index = self._queue.popleft()
            if not request.is_prefilled:
                request.is_prefilled = True
                self._debt += request.prompt_tokens * self._rates.prefill
            end = self._progress + request.lengths[index]
            heapq.heappush(self._active, (end, next(self._tickets), self._progress, request, index))
        if not self._active:
            self._debt = 0.0  # all that was to be prefilled was cancelled
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._active and not self._is_paused:
            wait = self._debt + max(0.0, self._active[0][0] - self._progress) * self._step_seconds
            self._timer = self._loop.call_at(self._loop.time() + wait, self._complete)
        self.cpu_seconds += time.process_time() - began

    def _complete(self) -> None:
        began = time.process_time()
        self._timer = None
        self._advance()
        self._progress = max(self._progress, self._active[0][0])
        while self._active and self._active[0][0] <= self._progress + 1e-6:
            _, _, start, request, index = heapq.heappop(self._active)
            request.spans[index] = self._spans(start, request.lengths[index])
            self._clock[2] += request.lengths[index]
            if len(request.spans) == len(request.lengths) and not request.done.done():
                request.done.set_result(None)
        self.cpu_seconds += time.process_time() - began
        self._change()

    def _spans(self, start: float, length: int) -> Spans:
        done, spans = 0, []
        for number in range(bisect_left(self._changes, start + 1) - 1, len(self._changes)):
            is_last = number + 1 == len(self._changes)
            until = length if is_last else min(length, math.floor(self._changes[number + 1] - start))
            if until > done:
                spans.append((until - done, self._versions[number]))
                done = until
        return tuple(spans)


class SimulatedPool(EnginePool):
    """As many simulated engines as the configuration says, with the real queue."""

    engines: list[SimulatedEngine]  # type: ignore[assignment]

    def __init__(self, config: Config, rates: EngineRates) -> None:
        self._rates = rates
        unused: Any = None
        super().__init__(make_plan(config).pool("rollout"), unused, config.model, config.cluster, None)

    def _start(self, index: int) -> Any:
        return SimulatedEngine(f"rollout-{index}", self._rates)
