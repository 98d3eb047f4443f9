"""Whether Ray still works where the driver is: without its raylet and its control service nobody can be asked, or
replaced."""

import asyncio
import threading
from contextlib import suppress
from typing import Any, NoReturn

import ray

from mel_ray.records.incident import PoolError

EVERY = 5.0  # seconds
PATIENCE = 40.0  # seconds; Ray itself ends a process whose control service has been gone for 60


async def watch_home() -> NoReturn:
    """Never ends while this process's node belongs to the cluster.

    Raises:
        PoolError: it does not, or nobody knows.
    """
    own = ray.get_runtime_context().get_node_id()
    while True:
        await asyncio.sleep(EVERY)
        try:
            nodes = await asyncio.wait_for(_nodes(), PATIENCE)
        except TimeoutError as error:
            raise PoolError(f"Ray's control service (GCS) has not answered for {PATIENCE:g} s") from error
        if not any(node["NodeID"] == own and node["Alive"] for node in nodes):
            what = "Ray's process on the driver's node (raylet) is gone"
            raise PoolError(f"{what}, and with it everything in that node's object store")


async def _nodes() -> list[dict[str, Any]]:
    """Asked from a thread that nobody waits for in the end, because the answer may never come."""
    answer, loop = asyncio.get_running_loop().create_future(), asyncio.get_running_loop()

    def give(nodes: list[dict[str, Any]]) -> None:
        if not answer.done():
            answer.set_result(nodes)

    def ask() -> None:
        with suppress(Exception):  # of Ray, or of a loop, that has ended in the meantime
            loop.call_soon_threadsafe(give, ray.nodes())

    threading.Thread(target=ask, name="watch_home", daemon=True).start()
    return await answer
