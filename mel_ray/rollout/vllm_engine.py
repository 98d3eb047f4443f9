"""vLLM as a token sampler: tokens in, tokens and sampled-token logprobs out, weights replaced in between.

Updates in flight: a paused engine stands between two steps and keeps its requests. The new version is named in the
engine core during the pause, and every step's outputs carry the name that held when they were sampled. So a token's
version is exact, however long its output travels.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mel_ray.config.schema import Config
from mel_ray.records.reports import EngineClock
from mel_ray.records.trajectory import FinishReason, Sampling, Trajectory
from mel_ray.rollout.engine_hosts import UNNAMED, AsyncHost, Host, InProcessHost
from mel_ray.weights.registry import transport_of


@dataclass(frozen=True, slots=True)
class EngineSettings:
    model: str
    dtype: str
    max_context: int
    device: str
    tensor_parallel: int
    max_sequences: int
    max_batched_tokens: int
    memory_share: float
    kv_cache_mib: int
    in_process: bool
    transport: str
    seed: int
    sleeps: bool = False
    compiled: bool = False

    @classmethod
    def of(cls, config: Config, model_folder: Path) -> "EngineSettings":
        pool = config.cluster.rollout
        return cls(
            model=str(model_folder),
            dtype=config.model.dtype,
            max_context=config.model.max_context,
            device=config.cluster.device,
            tensor_parallel=pool.tensor_parallel,
            max_sequences=pool.max_sequences,
            max_batched_tokens=pool.max_batched_tokens,
            memory_share=pool.memory_share,
            kv_cache_mib=pool.kv_cache_mib,
            in_process=pool.in_process,
            transport=transport_of(config.cluster),
            seed=config.run.seed,
            sleeps=config.cluster.colocated,
            compiled=pool.compile,
        )


EXTENSION = "mel_ray.weights.receiver.WorkerExtension"


def _arguments(settings: EngineSettings) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "model": settings.model,
        "dtype": settings.dtype,
        "max_model_len": settings.max_context,
        "max_num_seqs": settings.max_sequences,
        "seed": settings.seed,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "logprobs_mode": "processed_logprobs",
        "weight_transfer_config": {"backend": f"mel_{settings.transport}"},
        "worker_extension_cls": EXTENSION,
        "tensor_parallel_size": settings.tensor_parallel,
        # In a placement group vLLM would otherwise start Ray actors of its own, which have no resources there.
        "distributed_executor_backend": "uni" if settings.tensor_parallel == 1 else "mp",
    }
    if settings.device == "cpu":
        # A prompt prefilled in two pieces would rewind its seeded generator, which CPU generators cannot do.
        arguments |= {
            "enforce_eager": not settings.compiled,
            "kv_cache_memory_bytes": settings.kv_cache_mib << 20,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(4096, settings.max_context),
        }
    else:
        # By itself AsyncLLM takes 2048, which leaves a large GPU half idle while prompts are read.
        arguments |= {
            "gpu_memory_utilization": settings.memory_share,
            "max_num_batched_tokens": settings.max_batched_tokens,
            "enable_sleep_mode": settings.sleeps,
        }
    return arguments


class _Stopwatch:
    """Counts the seconds that it was on."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._seconds = 0.0

    def switch(self, is_on: bool) -> None:
        now = time.monotonic()
        if self._since is not None:
            self._seconds += now - self._since
        self._since = now if is_on else None

    def take(self) -> float:
        """The seconds since the last call."""
        self.switch(self._since is not None)
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class VllmEngine:
    """One engine: samples with one seed per sample, takes new weights, and keeps the clock of what it did.

    `running` counts the sequences that were asked for and have not ended, in the engine's own queue or being sampled.
    """

    def __init__(
        self, settings: EngineSettings, decode: Callable[[Sequence[int]], str], stop_ids: Sequence[int]
    ) -> None:
        arguments = _arguments(settings)
        self._host: Host = InProcessHost(arguments) if settings.in_process else AsyncHost(arguments)
        self._decode, self._stop_ids = decode, list(stop_ids)
        self._ids, self._requests = itertools.count(), set[str]()
        self.running = 0
        self.is_paused = self._is_loading = False
        self._busy, self._pauses = _Stopwatch(), _Stopwatch()
        self._sampled = self._recomputed = 0
        self._kept: set[int] = set()  # the versions that were loaded without clearing the cache
        self.weight_version = 0

    async def sample(self, token_ids: Iterable[int], sampling: Sampling) -> tuple[Trajectory, ...]:
        """`sampling.count` independent completions of one prompt; its prefix is computed once.

        Every token is given with the version of the weights that sampled it.

        Raises:
            RuntimeError: weights are being replaced and the engine is not paused.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        # The salt keeps a new request from reading prefixes that were computed before an update that kept them.
        prompt = {"prompt_token_ids": [int(token) for token in token_ids], "cache_salt": str(len(self._kept))}

        async def one(seed: int) -> Trajectory:
            params = SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                seed=seed,
                logprobs=0,
                stop_token_ids=self._stop_ids,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            if self._is_loading and not self.is_paused:
                raise RuntimeError("weights are being replaced; pause the engine first, so that new requests wait")
            self._count_running(1)
            request_id = str(next(self._ids))
            self._requests.add(request_id)
            try:
                output = (await self._host.request(request_id, prompt, params)).outputs[0]
            finally:
                self._requests.discard(request_id)
                self._count_running(-1)
            if output.finish_reason == "abort":
                raise RuntimeError("the request was aborted")
            tokens = list(output.token_ids)
            logprobs = [step[token].logprob for token, step in zip(tokens, output.logprobs, strict=True)]
            versions = self._versions_of(output, len(prompt["prompt_token_ids"]))
            finish = FinishReason.LENGTH if output.finish_reason == "length" else FinishReason.STOP
            return Trajectory.of_one_turn(tokens, logprobs, self._decode(tokens), finish, seed, versions)

        return tuple(await asyncio.gather(*map(one, sampling.seeds)))

    def _versions_of(self, output: Any, prompt_tokens: int) -> list[int]:
        """The weights that sampled each token; what was computed again between two versions goes to the clock."""
        versions: list[int] = []
        for span in output.weight_versions:
            version = 0 if span.version == UNNAMED else int(span.version)
            if span.start and version not in self._kept:
                self._recomputed += prompt_tokens + span.start - 1  # the newest token's keys were not yet computed
            versions += [version] * (span.end - span.start)
        self._sampled += len(versions)
        return versions

    def _count_running(self, change: int) -> None:
        self.running += change
        self._busy.switch(self.running > 0 and not self.is_paused)

    async def pause(self) -> None:
        """Freeze the engine between two of its steps: requests stay where they are, and new ones wait."""
        if not self.is_paused:
            await self._host.pause()
            self._set_paused(True)

    async def resume(self) -> None:
        """Go on after `pause`.

        Raises:
            RuntimeError: an update was begun and not finished.
        """
        if self._is_loading:
            raise RuntimeError("weights are being replaced; finish the update before the engine is resumed")
        if self.is_paused:
            self._set_paused(False)
            await self._host.resume()

    async def ping(self) -> None:
        """Return once the engine has looked up from its work."""
        await self._host.ping()

    async def abort(self) -> None:
        """End all requests without a result."""
        await self._host.abort(list(self._requests))

    async def sleep(self) -> None:
        """Leave the GPU to others, until `wake`. What the engine held is gone: weights, keys and values.

        Raises:
            RuntimeError: requests are running.
        """
        if self.running:
            raise RuntimeError(f"{self.running} requests are running, so the engine cannot sleep")
        await self._host.sleep()

    async def wake(self, part: Literal["weights", "kv_cache"]) -> None:
        """Take memory for the weights, before they are received, and for keys and values after."""
        await self._host.wake(part)

    def _set_paused(self, is_paused: bool) -> None:
        self.is_paused = is_paused
        self._pauses.switch(is_paused)
        self._count_running(0)

    def take_busy_seconds(self) -> float:
        """Seconds with at least one request and without a pause, since this or `take_counts` was last called."""
        return self._busy.take()

    def take_counts(self) -> EngineClock:
        """What the engine did since the last call."""
        clock = EngineClock(self.take_busy_seconds(), self._pauses.take(), self._sampled, self._recomputed)
        self._sampled = self._recomputed = 0
        return clock

    async def connect_weights(self, init_info: dict[str, Any]) -> None:
        await self._host.rpc("init_weight_transfer_engine", init_info=init_info)

    async def disconnect_weights(self) -> None:
        """Close the transport's groups and sockets, so that it can be connected again."""
        await self._host.rpc("close_weight_transfer")

    async def begin_update(self) -> None:
        """Make ready to receive weights; an update that was begun before is given up.

        Raises:
            RuntimeError: requests are running and the engine is not paused.
        """
        if self.running and not self.is_paused:
            raise RuntimeError(f"{self.running} requests are running; pause the engine before an update")
        if self._is_loading:
            await self._host.rpc("abandon_weight_update")
        self._is_loading = True
        await self._host.rpc("start_weight_update")

    async def receive(self, update_info: dict[str, Any]) -> None:
        await self._host.rpc("update_weights", update_info=update_info)

    async def finish_update(self, version: int, keep_kv: bool = False) -> str:
        """Put the received weights to use as `version`; returns the checksum of what was received.

        The cache is cleared: requests that were paused in the middle compute their prefix again under the new weights
        when they are resumed, so no token is decoded on keys of older weights. With `keep_kv` they go on with the keys
        they have, old and new mixed (PipelineRL, arXiv 2509.19128). So may requests that wait in the engine with a
        prefix in common; requests that come later never see the old keys.

        Raises:
            RuntimeError: the workers of this engine received different weights, or the cache could not be cleared.
        """
        await self._host.rpc("finish_weight_update")
        if not keep_kv and not await self._host.reset_prefix_cache():
            raise RuntimeError("the prefix cache could not be reset, so it would serve the old weights")
        checksums = set(await self._host.rpc("received_checksum"))
        if len(checksums) != 1:
            raise RuntimeError(f"the workers of one engine received different weights: {sorted(checksums)}")
        await self._host.name_weights(str(version))
        if keep_kv:
            self._kept.add(version)
        self.weight_version, self._is_loading = version, False
        return checksums.pop()
