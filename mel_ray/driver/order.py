"""The order of arrival: by which weights everything was sampled. The order of an earlier run can be repeated.

With `driver.publish=drain` every sample is of one version, and its tokens follow from that version and its seed. So a
run that samples everything under the versions of another run has its very curve.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from mel_ray.records.ports import Sample


class Order(Protocol):
    """When what may happen."""

    def sampling(self, step: int, sample: Sample) -> AbstractAsyncContextManager[None]:
        """Entered when a sample may be asked for; left when it is there."""
        ...

    def publishing(self, version: int) -> AbstractAsyncContextManager[None]:
        """Entered when the engines may be given these weights; left when they have them."""
        ...


class AsItComes:
    """Nothing is held back."""

    @asynccontextmanager
    async def sampling(self, step: int, sample: Sample) -> AsyncIterator[None]:
        yield

    @asynccontextmanager
    async def publishing(self, version: int) -> AsyncIterator[None]:
        yield


class DifferentRun(RuntimeError):
    """This run samples what the other one did not; the message is a sentence."""


class Replayed:
    """As in another run: a sample waits for its weights, and weights wait for all samples of the weights before."""

    def __init__(self, name: str, steps: Mapping[int, Mapping[Sample, int]], version: int = 0) -> None:
        """`steps`: the version of everything that the other run sampled in the steps to come. `version`: the weights
        that this run begins with."""
        self._name, self._steps, self._version = name, steps, version
        self._left = Counter(of_sample for step in steps.values() for of_sample in step.values())
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def sampling(self, step: int, sample: Sample) -> AsyncIterator[None]:
        wanted = self._steps.get(step, {}).get(sample)
        if wanted is None:
            question_id, what = sample
            raise DifferentRun(
                f"step {step}: run {self._name} has no {what} of question {question_id}, so the two runs differ in "
                "more than the order of arrival. Give this one the other's configuration."
            )
        async with self._changed:
            await self._changed.wait_for(lambda: self._version >= wanted)
        yield
        async with self._changed:
            self._left[wanted] -= 1
            self._changed.notify_all()

    @asynccontextmanager
    async def publishing(self, version: int) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: not any(n > 0 for of, n in self._left.items() if of < version))
        yield
        async with self._changed:
            self._version = version
            self._changed.notify_all()
