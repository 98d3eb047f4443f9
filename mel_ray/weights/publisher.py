"""Publishes the policy's weights to every engine as a new version, and makes sure that they arrived.

Consumes nothing, produces weights in the engines; waits for the policy's ranks and for all engines. An
engine that has requests running must be paused.
"""

import asyncio
from typing import Any

from mel_ray.records.ports import Engine, Engines, WeightSource
from mel_ray.weights.registry import TRANSPORTS


class DamagedWeights(RuntimeError):
    """Weights arrived damaged, also after a restart of the engine; the message is a sentence."""


class WeightPublisher:
    """One transport between rank 0 of the policy and every worker of every engine."""

    def __init__(
        self, source: WeightSource, engines: Engines, transport: str, tensor_parallel: int, delta: bool = False
    ) -> None:
        self._source, self._engines, self._name, self._tensor_parallel = source, engines, transport, tensor_parallel
        self._delta = delta
        self._transport = TRANSPORTS[transport]
        self._is_open = False
        self.checksum = ""  # of the weights published last

    async def connect(self) -> None:
        """Open the transport, after closing what an earlier attempt left open.

        The sender and all receivers wait for each other.
        """
        if self._is_open:
            await self.disconnect()
        self._is_open = True
        engines = self._engines.engines
        address, port = await self._source.address()
        world = 1 + len(engines) * self._tensor_parallel
        opening: list[Any] = [self._source.open_sender(self._name, address, port, world, self._delta)]
        for index, engine in enumerate(engines):
            info: dict[str, Any] = {}
            if self._transport.has_rendezvous:
                offset = 1 + index * self._tensor_parallel
                info = {"master_address": address, "master_port": port, "rank_offset": offset, "world_size": world}
            if self._transport.has_delta:
                info["delta"] = self._delta
            opening.append(engine.connect_weights(info | self._transport.init_info))
        await asyncio.gather(*opening)

    async def disconnect(self) -> None:
        """Close the transport on both ends, so that it can be opened again."""
        await asyncio.gather(
            self._source.close_sender(), *(engine.disconnect_weights() for engine in self._engines.engines)
        )
        self._is_open = False

    async def publish(self, version: int, keep_kv: bool = False) -> None:
        """Give every engine the current weights as `version` and compare checksums.

        An engine whose checksum differs is restarted and served again, once. With `keep_kv`, running requests go on
        with the keys and values of the old weights.

        Raises:
            DamagedWeights: an engine's checksum differs twice.
        """
        broken = await self._publish_once(version, keep_kv)
        if not broken:
            return
        await self.disconnect()
        for engine in broken:
            await self._engines.restart(engine)
        await self.connect()
        if broken := await self._publish_once(version, keep_kv):
            names = ", ".join(engine.name for engine in broken)
            raise DamagedWeights(f"weights arrived damaged on {names}, also after a restart. Log: {broken[0].log}")

    async def _publish_once(self, version: int, keep_kv: bool) -> list[Engine]:
        """The engines whose checksum differs from the sender's."""
        engines = self._engines.engines
        await asyncio.gather(*(engine.begin_update() for engine in engines))
        info = await self._source.update_info()
        receiving = asyncio.gather(*(engine.receive(info) for engine in engines))
        sent, _ = await asyncio.gather(self._source.send(), receiving)
        received = await asyncio.gather(*(engine.finish_update(version, keep_kv) for engine in engines))
        self.checksum = sent
        return [engine for engine, checksum in zip(engines, received, strict=True) if checksum != sent]
