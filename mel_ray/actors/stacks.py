"""Where an actor is and what its Python is doing: said with a deadline that has passed.

Needs nothing of the actor itself, which may hang; py-spy reads its memory from outside, on its node.
"""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

SECONDS = 20.0
FRAMES, THREADS = 12, 3


async def said_of(actor: Any) -> tuple[str, str]:
    """` on node A, process 123`, and the Python stack as indented lines; empty where it cannot be found out."""
    try:
        async with asyncio.timeout(SECONDS):
            return await _said_of(actor)
    except Exception:  # this is said with an error that matters more
        return "", ""


async def _said_of(actor: Any) -> tuple[str, str]:
    from ray._private.state import actors  # Ray offers no public call without its dashboard

    entry = await asyncio.to_thread(actors, actor._actor_id.hex())
    process, node_id = int(entry["Pid"]), entry["Address"]["NodeID"]
    if not process:
        return " (it has not started)", ""
    names = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes()}
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    if node_id == ray.get_runtime_context().get_node_id():
        found = await asyncio.to_thread(python_stack, process)
    else:
        found = await ray.remote(python_stack).options(num_cpus=0, scheduling_strategy=there).remote(process)
    return f" (node {names.get(node_id, node_id)}, process {process})", found


def python_stack(process: int) -> str:
    """Of the main thread and up to two others that are at work."""
    tool = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if tool is None:
        return ""
    command = [tool, "dump", "--nonblocking", "--pid", str(process)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS / 2).stdout
    return "".join(f"\n    {line}" for line in chosen_threads(said))


def chosen_threads(dump: str) -> list[str]:
    threads = [block.splitlines() for block in dump.split("\n\n") if block.startswith("Thread ")]
    at_work = [lines for lines in threads if "(active" in lines[0]]
    main = [lines for lines in threads if "MainThread" in lines[0]] or threads[:1]
    chosen = main + [lines for lines in at_work if lines not in main]
    return [line for lines in chosen[:THREADS] for line in lines[: FRAMES + 1]]
