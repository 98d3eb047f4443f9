"""Whether Ray still works where the driver is."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from mel_ray.actors import home
from mel_ray.records.incident import PoolError


class FakeRay:
    def __init__(self, nodes) -> None:
        self.nodes = nodes

    def get_runtime_context(self):
        return SimpleNamespace(get_node_id=lambda: "own")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(home, "EVERY", 0.001)
    monkeypatch.setattr(home, "PATIENCE", 0.05)


async def test_a_raylet_that_is_gone_ends_the_run_and_that_of_another_node_does_not(monkeypatch, quick):
    alive = {"own": True, "other": True}
    monkeypatch.setattr(
        home, "ray", FakeRay(lambda: [{"NodeID": name, "Alive": is_so} for name, is_so in alive.items()])
    )
    watching = asyncio.create_task(home.watch_home())
    alive["other"] = False
    await asyncio.sleep(0.05)
    assert not watching.done()
    alive["own"] = False
    with pytest.raises(PoolError, match=r"\(raylet\) is gone"):
        await asyncio.wait_for(watching, 5)


async def test_a_control_service_that_does_not_answer_ends_the_run(monkeypatch, quick):
    never = threading.Event()
    monkeypatch.setattr(home, "ray", FakeRay(lambda: never.wait(5) or []))
    with pytest.raises(PoolError, match=r"\(GCS\) has not answered for 0.05 s"):
        await asyncio.wait_for(home.watch_home(), 5)
    never.set()
