"""Publishes the policy's weights to every engine as a new version, and makes sure that they arrived.

Consumes nothing, produces weights in the engines; waits for the policy's ranks and for all engines. An engine that has
requests running must be paused. One that is lost, or gets damaged weights, is replaced and does not hold up the
others.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from mel_ray.records.incident import LostActor, PoolError
from mel_ray.records.ports import Engine, Engines, WeightSource
from mel_ray.weights.registry import TRANSPORTS

ATTEMPTS = 3
GRACE = 10.0  # seconds in which the cause of a broken group may still show


class DamagedWeights(PoolError):
    """Weights arrived damaged; the message is a sentence."""


class WeightPublisher:
    """One transport between rank 0 of the policy and every worker of the engines that are connected.

    `moving` is held by whoever changes the policy's weights, until they are published: an engine that is served on its
    own gets the weights that the others have.
    """

    def __init__(
        self, source: WeightSource, engines: Engines, transport: str, tensor_parallel: int, delta: bool = False
    ) -> None:
        self._source, self._engines, self._name, self._tensor_parallel = source, engines, transport, tensor_parallel
        self._delta = delta
        self._transport = TRANSPORTS[transport]
        self._connected: list[Engine] = []
        self._is_open = False
        self._version: int | None = None  # that of the last publish
        self.moving = asyncio.Lock()
        self.checksum = ""  # of the weights published last

    async def connect(self, engines: Sequence[Engine] | None = None) -> None:
        """Open the transport to these engines (by default all), after closing what an earlier attempt left open.

        The sender and all receivers wait for each other.
        """
        if self._is_open:
            await self.disconnect()
        engines = list(self._engines.engines if engines is None else engines)
        self._is_open, self._connected = True, engines
        address, port = await self._source.address()
        world = 1 + len(engines) * self._tensor_parallel
        places: dict[int, dict[str, Any]] = {}
        for index, engine in enumerate(engines):
            info: dict[str, Any] = {}
            if self._transport.has_rendezvous:
                offset = 1 + index * self._tensor_parallel
                info = {"master_address": address, "master_port": port, "rank_offset": offset, "world_size": world}
            if self._transport.has_delta:
                info["delta"] = self._delta
            places[id(engine)] = info | self._transport.init_info
        await asyncio.gather(
            self._source.open_sender(self._name, address, port, world, self._delta),
            *(engine.connect_weights(places[id(engine)]) for engine in engines),
        )

    async def disconnect(self) -> None:
        """Close the transport on both ends, so that it can be opened again."""
        await self._source.close_sender()  # first, because it frees those who wait for it
        usable = {id(engine) for engine in self._engines.engines}
        await self._on_each([one for one in self._connected if id(one) in usable], lambda one: one.disconnect_weights())
        self._is_open, self._connected = False, []

    async def publish(self, version: int, keep_kv: bool = False) -> None:
        """Give every engine the current weights as `version` and compare checksums.

        Engines that are lost, or whose checksum differs, are replaced; they are served when they have started. Where
        one of them broke the connection of all, the others are served again. With `keep_kv`, running requests go on
        with the keys and values of the old weights.

        Raises:
            PoolError: the policy could not send, or the connection broke again and again.
        """
        self._version = version
        for _ in range(ATTEMPTS):
            engines = self._engines.engines
            if not engines:
                return  # whoever comes is served
            try:
                if [id(one) for one in engines] != [id(one) for one in self._connected]:
                    await self.connect(engines)
                if await self._send(engines, version, keep_kv):
                    return
            except PoolError as error:
                if isinstance(error, LostActor) and self._replaced(error, engines):
                    continue
                if len(self._engines.engines) == len(engines):
                    raise
        raise PoolError(f"version {version} of the weights could not be published in {ATTEMPTS} attempts")

    async def serve(self, engine: Engine) -> None:
        """Give one engine that has just started the weights that the others have, over a connection of its own.

        Raises:
            DamagedWeights: its checksum differs.
        """
        async with self.moving:
            if self._version is None:
                return
            await self.connect([engine])
            await engine.begin_update()
            info = await self._source.update_info()
            sent, _ = await asyncio.gather(self._source.send(), engine.receive(info))
            received = await engine.finish_update(self._version)
            self.checksum = sent
        if received != sent:
            raise _damaged(engine)

    async def _send(self, engines: Sequence[Engine], version: int, keep_kv: bool) -> bool:
        """Whether all engines that are still there got the weights."""
        begun = await self._on_each(engines, lambda one: one.begin_update())
        if len(begun) < len(engines) and self._transport.has_rendezvous:
            return False  # the sender would wait for those who are missing
        info = await self._source.update_info()
        sending = asyncio.ensure_future(self._source.send())
        receiving = [asyncio.ensure_future(self._receive(one, info, sending)) for one in begun]
        try:
            sent = await sending
        except PoolError:
            await self.disconnect()  # nobody waits for the sender any more
            await asyncio.gather(*receiving)
            raise
        except asyncio.CancelledError:  # the sender may hang, and those who receive would hear of nothing
            for waiting in receiving:
                waiting.cancel()
            raise
        arrived = await asyncio.gather(*receiving)
        served = [one for one, has_arrived in zip(begun, arrived, strict=True) if has_arrived]
        received: dict[int, str] = {}

        async def finish(one: Engine) -> None:
            received[id(one)] = await one.finish_update(version, keep_kv)

        for one in await self._on_each(served, finish):
            if received[id(one)] != sent:
                self._engines.replace(one, _damaged(one))
        self.checksum = sent
        return True

    async def _receive(self, engine: Engine, info: dict[str, Any], sending: asyncio.Future[str]) -> bool:
        """Whether it has received everything. If not, it is replaced, unless another one broke the connection."""
        try:
            await engine.receive(info)
            return True
        except PoolError as error:
            if not isinstance(error, LostActor):
                await asyncio.wait([sending], timeout=GRACE)
                if sending.done() and sending.exception():
                    return False
            self._engines.replace(engine, error)
            return False

    async def _on_each(self, engines: Sequence[Engine], ask: Any) -> list[Engine]:
        """Those who did as they were asked; the others are replaced."""
        found = await asyncio.gather(*map(ask, engines), return_exceptions=True)
        for engine, one in zip(engines, found, strict=True):
            if isinstance(one, PoolError):
                self._engines.replace(engine, one)
            elif isinstance(one, BaseException):
                raise one
        return [engine for engine, one in zip(engines, found, strict=True) if not isinstance(one, PoolError)]

    def _replaced(self, lost: LostActor, engines: Sequence[Engine]) -> bool:
        """Whether it was one of the engines that is lost."""
        for engine in engines:
            if engine.name == lost.who:
                self._engines.replace(engine, lost)
                return True
        return False


def _damaged(engine: Engine) -> DamagedWeights:
    return DamagedWeights(f"weights arrived damaged on {engine.name}. Log: {engine.log}", engine.log)
