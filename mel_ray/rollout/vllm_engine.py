"""vLLM as a token sampler: tokens in, tokens and sampled-token logprobs out, weights replaced in between.

Two hosts with the same surface: `AsyncHost` is vLLM's AsyncLLM with its engine core in a process of its own;
`InProcessHost` steps the same engine on a thread of this process, which halves the start on a laptop.

Concurrency of `InProcessHost`: one thread owns the engine. It consumes commands from a queue (blocking only
while the engine has nothing to do), steps the engine, and resolves asyncio futures on their own loop.
"""

import asyncio
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mel_ray.config.schema import Config
from mel_ray.records.trajectory import FinishReason, Sampling, Trajectory
from mel_ray.weights.registry import transport_of


@dataclass(frozen=True, slots=True)
class EngineSettings:
    model: str
    dtype: str
    max_context: int
    device: str
    tensor_parallel: int
    max_sequences: int
    memory_share: float
    kv_cache_mib: int
    in_process: bool
    transport: str
    seed: int

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
            memory_share=pool.memory_share,
            kv_cache_mib=pool.kv_cache_mib,
            in_process=pool.in_process,
            transport=transport_of(config.cluster),
            seed=config.run.seed,
        )


EXTENSION = "mel_ray.weights.receiver.WorkerExtension"


class Host(Protocol):
    async def request(self, request_id: str, token_ids: list[int], params: Any) -> Any: ...

    async def rpc(self, method: str, **kwargs: Any) -> list[Any]: ...

    async def reset_prefix_cache(self) -> bool: ...


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
    }
    if settings.device == "cpu":
        # A prompt prefilled in two pieces would rewind its seeded generator, which CPU generators cannot do.
        arguments |= {
            "enforce_eager": True,
            "kv_cache_memory_bytes": settings.kv_cache_mib << 20,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(4096, settings.max_context),
        }
    else:
        arguments["gpu_memory_utilization"] = settings.memory_share
    return arguments


class AsyncHost:
    """AsyncLLM: the engine core runs in a process of its own."""

    def __init__(self, settings: EngineSettings) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**_arguments(settings)))

    async def request(self, request_id: str, token_ids: list[int], params: Any) -> Any:
        last = None
        async for output in self._llm.generate({"prompt_token_ids": token_ids}, params, request_id=request_id):
            last = output
        return last

    async def rpc(self, method: str, **kwargs: Any) -> list[Any]:
        return await self._llm.collective_rpc(method, kwargs=kwargs)

    async def reset_prefix_cache(self) -> bool:
        return await self._llm.reset_prefix_cache()


class InProcessHost:
    """LLMEngine stepped on one thread of this process."""

    def __init__(self, settings: EngineSettings) -> None:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        import mel_ray.weights.receiver  # noqa: F401  registers the transports in this process

        self._llm = LLMEngine.from_engine_args(EngineArgs(**_arguments(settings)), enable_multiprocessing=False)
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waiting: dict[str, tuple[asyncio.AbstractEventLoop, asyncio.Future[Any]]] = {}
        self._thread = threading.Thread(target=self._run, name="vllm-step", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        """Commands first, then one step of the engine, for as long as the process lives.

        An idle engine must not spin, so the first `get` blocks while there is nothing to step. Every command may end
        the idleness (a request was added), so the flag is computed again after each: the next `get` then only looks,
        and raises Empty when all commands are done, which is the sign to step.
        """
        while True:
            is_idle = not self._llm.has_unfinished_requests()
            try:
                while True:
                    self._commands.get(block=is_idle)()
                    is_idle = not self._llm.has_unfinished_requests()
            except queue.Empty:
                pass
            try:
                for output in self._llm.step():
                    if output.finished:
                        self._resolve(self._waiting.pop(output.request_id), output, None)
            except Exception as error:  # the engine is broken: every waiter must be told
                waiting, self._waiting = self._waiting, {}
                for entry in waiting.values():
                    self._resolve(entry, None, error)

    @staticmethod
    def _resolve(
        entry: tuple[asyncio.AbstractEventLoop, asyncio.Future[Any]], value: Any, error: Exception | None
    ) -> None:
        loop, future = entry

        def settle() -> None:
            if not future.done():
                future.set_exception(error) if error else future.set_result(value)

        loop.call_soon_threadsafe(settle)

    async def _call(self, function: Callable[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        entry = (loop, loop.create_future())

        def command() -> None:
            try:
                self._resolve(entry, function(), None)
            except Exception as error:
                self._resolve(entry, None, error)

        self._commands.put(command)
        return await entry[1]

    async def request(self, request_id: str, token_ids: list[int], params: Any) -> Any:
        loop = asyncio.get_running_loop()
        entry = (loop, loop.create_future())

        def command() -> None:
            self._waiting[request_id] = entry
            try:
                self._llm.add_request(request_id, {"prompt_token_ids": token_ids}, params)
            except Exception as error:
                self._resolve(self._waiting.pop(request_id), None, error)

        self._commands.put(command)
        return await entry[1]

    async def rpc(self, method: str, **kwargs: Any) -> list[Any]:
        return await self._call(lambda: self._llm.collective_rpc(method, kwargs=kwargs))

    async def reset_prefix_cache(self) -> bool:
        return await self._call(self._llm.reset_prefix_cache)


class VllmEngine:
    """One engine: samples with one seed per sample, and keeps the time it was busy."""

    def __init__(
        self, settings: EngineSettings, decode: Callable[[Sequence[int]], str], stop_ids: Sequence[int]
    ) -> None:
        self._host: Host = InProcessHost(settings) if settings.in_process else AsyncHost(settings)
        self._decode, self._stop_ids = decode, list(stop_ids)
        self._ids = itertools.count()
        self._active, self._busy_since, self._busy_seconds = 0, 0.0, 0.0
        self.weight_version = 0

    async def sample(self, token_ids: Iterable[int], sampling: Sampling) -> tuple[Trajectory, ...]:
        """`sampling.count` independent completions of one prompt; its prefix is computed once."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        prompt = [int(token) for token in token_ids]

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
            output = (await self._host.request(str(next(self._ids)), prompt, params)).outputs[0]
            tokens = list(output.token_ids)
            logprobs = [step[token].logprob for token, step in zip(tokens, output.logprobs, strict=True)]
            finish = FinishReason.LENGTH if output.finish_reason == "length" else FinishReason.STOP
            return Trajectory.of_one_turn(tokens, logprobs, self._decode(tokens), finish, seed, self.weight_version)

        self._enter()
        try:
            return tuple(await asyncio.gather(*map(one, sampling.seeds)))
        finally:
            self._leave()

    def _enter(self) -> None:
        if self._active == 0:
            self._busy_since = time.monotonic()
        self._active += 1

    def _leave(self) -> None:
        self._active -= 1
        if self._active == 0:
            self._busy_seconds += time.monotonic() - self._busy_since

    def take_busy_seconds(self) -> float:
        """Seconds with at least one request since the last call."""
        busy, self._busy_seconds = self._busy_seconds, 0.0
        return busy

    async def connect_weights(self, init_info: dict[str, Any]) -> None:
        await self._host.rpc("init_weight_transfer_engine", init_info=init_info)

    async def disconnect_weights(self) -> None:
        """Close the transport's groups and sockets, so that it can be connected again."""
        await self._host.rpc("close_weight_transfer")

    async def begin_update(self) -> None:
        """Make ready to receive weights.

        Raises:
            RuntimeError: requests are still running.
        """
        if self._active:
            raise RuntimeError(f"{self._active} requests are running; weights are replaced between steps only")
        await self._host.rpc("start_weight_update")

    async def receive(self, update_info: dict[str, Any]) -> None:
        await self._host.rpc("update_weights", update_info=update_info)

    async def finish_update(self, version: int) -> str:
        """Put the received weights to use and forget cached prefixes; returns the checksum of what was received.

        Raises:
            RuntimeError: the workers of this engine received different weights, or cached prefixes remain.
        """
        await self._host.rpc("finish_weight_update")
        if not await self._host.reset_prefix_cache():
            raise RuntimeError("the prefix cache could not be reset, so it would serve the old weights")
        checksums = set(await self._host.rpc("received_checksum"))
        if len(checksums) != 1:
            raise RuntimeError(f"the workers of one engine received different weights: {sorted(checksums)}")
        self.weight_version = version
        return checksums.pop()
