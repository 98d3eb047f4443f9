"""Ray's object store as the port `ObjectStore`: what follows references outside the pools goes through it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError

from mel_ray.records.incident import LostRecords
from mel_ray.records.row import Ref

PATIENCE = 60.0  # seconds for one record


class RayStore:
    async def get(self, refs: Sequence[Ref]) -> list[Any]:
        """
        Raises:
            LostRecords: some were on a node that is gone.
        """
        try:
            return await asyncio.to_thread(ray.get, list(refs)) if refs else []
        except ObjectLostError as error:
            raise LostRecords(f"records were on a node that is gone: {error}") from error

    def put(self, record: Any) -> Ref:
        return ray.put(record)

    async def lost(self, refs: Sequence[Ref]) -> set[Ref]:
        """Those whose records are gone. Every record is fetched."""

        def is_lost(ref: Any) -> bool:
            try:
                ray.get(ref, timeout=PATIENCE)
            except (ObjectLostError, GetTimeoutError):
                return True
            return False

        return await asyncio.to_thread(lambda: {ref for ref in refs if is_lost(ref)})
