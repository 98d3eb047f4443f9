"""What an actor has started ends with it, also when it is killed: on a GPU it would keep the memory.

Ray sees to it by itself: a worker has a process group of its own, which ends with it.
"""

import os
import signal
import subprocess
import time

import psutil
import ray

from mel_ray.driver.wiring import connected_to_ray
from tests.unit.builders import config_of


@ray.remote(num_cpus=0.1, max_restarts=0)
class Parent:
    def start(self):
        child = subprocess.Popen(["sleep", "600"])
        return os.getpid(), child.pid


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_killed_actors_children_are_killed_too(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with connected_to_ray(config_of()):
        parent = Parent.remote()
        pid, child = ray.get(parent.start.remote(), timeout=60)
        assert is_running(child)
        os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + 30
        while is_running(child) and time.monotonic() < until:
            time.sleep(0.1)
        assert not is_running(child)
