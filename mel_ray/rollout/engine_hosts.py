"""Two hosts for vLLM with the same surface: requests and updates in, outputs out.

`AsyncHost` is vLLM's AsyncLLM with its engine core in a process of its own; `InProcessHost` steps the same engine on a
thread of this process, which halves the start on a laptop.

Concurrency of `InProcessHost`: one thread owns the engine. It consumes commands from a queue (blocking only while the
engine has nothing to do or is paused), steps the engine, and resolves asyncio futures on their own loop.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from mel_ray.records.incident import BrokenActor

UNNAMED = "default"  # what vLLM calls the weights it was started with


class Host(Protocol):
    async def request(self, request_id: str, prompt: Any, params: Any) -> Any: ...

    async def rpc(self, method: str, **kwargs: Any) -> list[Any]: ...

    async def ping(self) -> None:
        """Return once whoever steps the engine has answered."""
        ...

    async def abort(self, request_ids: list[str]) -> None: ...

    async def pause(self) -> None:
        """Return once no step is under way; none begins until `resume`."""
        ...

    async def resume(self) -> None: ...

    async def reset_prefix_cache(self) -> bool:
        """Forget all cached keys and values. Running requests compute theirs again."""
        ...

    async def name_weights(self, version: str) -> None:
        """What the tokens of all later steps are said to be sampled with."""
        ...

    async def sleep(self) -> None:
        """Give the GPU's memory back, weights, keys and values included."""
        ...

    async def wake(self, part: str) -> None:
        """Take memory again for `weights`, which then hold anything, or for the `kv_cache`."""
        ...


@contextmanager
def _core_alive() -> Iterator[None]:
    """
    Raises:
        BrokenActor: the process of the engine's core has died.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise BrokenActor(f"the process of the engine's core has died ({error})") from error


class AsyncHost:
    """AsyncLLM: the engine core runs in a process of its own."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))

    async def request(self, request_id: str, prompt: Any, params: Any) -> Any:
        last = None
        with _core_alive():
            async for output in self._llm.generate(prompt, params, request_id=request_id):
                last = output
        return last

    async def rpc(self, method: str, **kwargs: Any) -> list[Any]:
        with _core_alive():
            return await self._llm.collective_rpc(method, kwargs=kwargs)

    async def ping(self) -> None:
        await self.rpc("ping")

    async def abort(self, request_ids: list[str]) -> None:
        with _core_alive():
            await self._llm.abort(request_ids)

    async def pause(self) -> None:
        with _core_alive():
            await self._llm.pause_generation(mode="keep", clear_cache=False)

    async def resume(self) -> None:
        await self._llm.resume_generation()

    async def reset_prefix_cache(self) -> bool:
        return await self._llm.reset_prefix_cache(reset_running_requests=True)

    async def name_weights(self, version: str) -> None:
        await self._llm.update_weight_version(version)

    async def sleep(self) -> None:
        await self._llm.sleep(level=2)

    async def wake(self, part: str) -> None:
        await self._llm.wake_up([part])


class InProcessHost:
    """LLMEngine stepped on one thread of this process."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        import mel_ray.weights.receiver  # noqa: F401  registers the transports in this process

        self._llm = LLMEngine.from_engine_args(EngineArgs(**arguments), enable_multiprocessing=False)
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waiting: dict[str, tuple[asyncio.AbstractEventLoop, asyncio.Future[Any]]] = {}
        self._is_paused, self._broken_by = False, ""
        self._thread = threading.Thread(target=self._run, name="vllm-step", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        """Commands first, then one step of the engine, for as long as the process lives.

        An idle engine must not spin, so the first `get` blocks while there is nothing to step. Every command may end
        the idleness (a request was added), so it is asked for again after each: the next `get` then only looks, and
        raises Empty when all commands are done, which is the sign to step.
        """
        while True:
            try:
                while True:
                    self._commands.get(block=self._is_idle)()
            except queue.Empty:
                self._step()

    @property
    def _is_idle(self) -> bool:
        return bool(self._is_paused or self._broken_by) or not self._llm.has_unfinished_requests()

    def _step(self) -> None:
        try:
            for output in self._llm.step():
                if output.finished:
                    self._resolve(self._waiting.pop(output.request_id), output, None)
        except Exception as error:  # every waiter must be told
            self._broken_by = f"a step of the engine failed: {type(error).__name__}: {error}"
            waiting, self._waiting = self._waiting, {}
            for entry in waiting.values():
                self._resolve(entry, None, BrokenActor(self._broken_by))

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

    async def request(self, request_id: str, prompt: Any, params: Any) -> Any:
        loop = asyncio.get_running_loop()
        entry = (loop, loop.create_future())

        def command() -> None:
            if self._broken_by:
                self._resolve(entry, None, BrokenActor(self._broken_by))
                return
            self._waiting[request_id] = entry
            try:
                self._llm.add_request(request_id, prompt, params)
            except Exception as error:
                self._resolve(self._waiting.pop(request_id), None, error)

        self._commands.put(command)
        return await entry[1]

    async def rpc(self, method: str, **kwargs: Any) -> list[Any]:
        return await self._call(lambda: self._llm.collective_rpc(method, kwargs=kwargs))

    async def ping(self) -> None:
        await self._call(lambda: None)

    async def abort(self, request_ids: list[str]) -> None:
        def command() -> None:
            self._llm.abort_request(request_ids)
            for request_id in request_ids:
                if entry := self._waiting.pop(request_id, None):
                    self._resolve(entry, None, RuntimeError("the request was aborted"))

        await self._call(command)

    async def pause(self) -> None:
        core = self._llm.engine_core.engine_core

        def command() -> None:
            core.pause_scheduler("keep", clear_cache=False)
            while core.scheduler.has_requests() or core.batch_queue:  # where vLLM starts a step ahead, it ends here
                self._step()
            self._is_paused = True

        await self._call(command)

    async def resume(self) -> None:
        def command() -> None:
            self._llm.engine_core.engine_core.resume_scheduler()
            self._is_paused = False

        await self._call(command)

    async def reset_prefix_cache(self) -> bool:
        return await self._call(lambda: self._llm.reset_prefix_cache(reset_running_requests=True))

    async def name_weights(self, version: str) -> None:
        await self._call(lambda: self._llm.set_weight_version(version))

    async def sleep(self) -> None:
        raise RuntimeError("only an engine on a GPU of its own or shared with a rank can sleep")

    async def wake(self, part: str) -> None:
        raise RuntimeError("this engine never sleeps")
