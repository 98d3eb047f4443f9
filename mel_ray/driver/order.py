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

APART = (
    "so the two runs differ in more than the order of arrival: in the configuration, the data or a verdict that "
    "depends on time."
)


class Order(Protocol):
    """When what may happen."""

    def sampling(self, step: int, sample: Sample) -> AbstractAsyncContextManager[None]:
        """Entered when a sample may be asked for; left when it is there."""
        ...

    def publishing(self, version: int) -> AbstractAsyncContextManager[None]:
        """Entered when the engines may be given these weights; left when they have them."""
        ...

    def explored(self, step: int, question_id: str) -> None:
        """Nothing more will be sampled for this question."""
        ...

    def closed(self, step: int) -> None:
        """No more questions will be asked for this step."""
        ...

    def learned(self, step: int, version: int) -> None:
        """The policy has trained on this step, and has these weights now."""
        ...


class AsItComes:
    """Nothing is held back."""

    @asynccontextmanager
    async def sampling(self, step: int, sample: Sample) -> AsyncIterator[None]:
        yield

    @asynccontextmanager
    async def publishing(self, version: int) -> AsyncIterator[None]:
        yield

    def explored(self, step: int, question_id: str) -> None:
        return None

    def closed(self, step: int) -> None:
        return None

    def learned(self, step: int, version: int) -> None:
        return None


class DifferentRun(RuntimeError):
    """This run does not sample what the other one did; the message is a sentence."""


class Replayed:
    """As in another run: a sample waits for its weights, and weights wait for all samples of the weights before."""

    def __init__(
        self, name: str, steps: Mapping[int, Mapping[Sample, int]], version: int = 0,
        trained_from: Mapping[int, int] | None = None, patience: float | None = None,
    ) -> None:  # fmt: skip
        """`steps`: the version of everything that the other run sampled in the steps to come. `version`: the weights
        that this run begins with. `trained_from`: those that the other run's policy had at the start of a step.
        `patience`: seconds that new weights wait for the next sample of those before."""
        self._name, self._steps, self._version, self._trained_from = name, steps, version, trained_from or {}
        self._left = Counter(of_sample for step in steps.values() for of_sample in step.values())
        self._open = {step: set(samples) for step, samples in steps.items()}  # not sampled yet
        self._changed, self._patience = asyncio.Condition(), patience

    @asynccontextmanager
    async def sampling(self, step: int, sample: Sample) -> AsyncIterator[None]:
        wanted = self._steps.get(step, {}).get(sample)
        question_id, what = sample
        if wanted is None:
            raise DifferentRun(f"step {step}: run {self._name} has no {what} of question {question_id}, {APART}")
        async with self._changed:
            await self._changed.wait_for(lambda: self._version >= wanted)
        if self._version > wanted:
            raise DifferentRun(
                f"step {step}: question {question_id} was under way when this replay was interrupted, and the weights "
                f"that sampled its {what} are gone. Begin the replay anew."
            )
        yield
        async with self._changed:
            self._left[wanted] -= 1
            self._open[step].discard(sample)
            self._changed.notify_all()

    @asynccontextmanager
    async def publishing(self, version: int) -> AsyncIterator[None]:
        try:
            async with self._changed:
                while any(n > 0 for of, n in self._left.items() if of < version):
                    async with asyncio.timeout(self._patience):
                        await self._changed.wait()
        except TimeoutError:
            raise DifferentRun(
                f"run {self._name} sampled more under weights before version {version}, and nothing came for "
                f"{self._patience:g} s: who was to sample it is lost, and those weights too. Begin the replay anew."
            ) from None
        yield
        async with self._changed:
            self._version = version
            self._changed.notify_all()

    def explored(self, step: int, question_id: str) -> None:
        """
        Raises:
            DifferentRun: the other run sampled more for this question, which would be waited for without end.
        """
        self._refuse_missing(step, [sample for sample in self._open.get(step, ()) if sample[0] == question_id])

    def closed(self, step: int) -> None:
        """
        Raises:
            DifferentRun: the other run asked more questions.
        """
        self._refuse_missing(step, list(self._open.get(step, ())))

    def learned(self, step: int, version: int) -> None:
        """
        Raises:
            DifferentRun: only one of the two runs made an optimizer step, so their weights are counted differently.
        """
        theirs = self._trained_from.get(step + 1, version)
        if theirs != version:
            who, other = (f"run {self._name}", "this one") if theirs > version else ("this run", f"run {self._name}")
            raise DifferentRun(f"step {step}: {who} made an optimizer step and {other} had no signal for one, {APART}")

    def _refuse_missing(self, step: int, missing: list[Sample]) -> None:
        if missing:
            question_id, what = min(missing)
            raise DifferentRun(
                f"step {step}: run {self._name} has {what} of question {question_id} and this one has not, {APART}"
            )
