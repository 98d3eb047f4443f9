"""Ray's object store as the port `ObjectStore`: what follows references outside the pools goes through it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import ray

from mel_ray.records.row import Ref


class RayStore:
    async def get(self, refs: Sequence[Ref]) -> list[Any]:
        return await asyncio.to_thread(ray.get, list(refs)) if refs else []

    def put(self, record: Any) -> Ref:
        return ray.put(record)
