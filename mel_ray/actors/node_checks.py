"""What every node must find on its own disks, asked before any actor starts: the model, and the run folder where ranks
write their part of a checkpoint."""

import asyncio
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mel_ray.actors.handles import settle
from mel_ray.config.bundles import Node
from mel_ray.records.problem import ConfigError, Problem

SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Found:
    """What a node found."""

    has_model: bool
    has_token: bool


Finder = Callable[[Path], Path]  # the model's folder on the node it is called on; a ConfigError where it has none


def look(find: Finder, folder: str, token: str | None) -> Found:
    """On the node it runs on: is the model there, and the file that the driver has just written?"""
    try:
        find(Path(folder))
        has_model = True
    except ConfigError:
        has_model = False
    return Found(has_model, token is None or Path(token).exists())


def problems_of(
    found: Mapping[Node, Found], folder: Path, run_dir: Path | None, writers: Collection[Node]
) -> list[Problem]:
    """`writers`: the nodes that have ranks. What other nodes cannot see of the run folder does not matter."""
    problems = []
    lacking = [node.name for node, one in found.items() if not one.has_model]
    if lacking:
        why = f"node {', '.join(lacking)} has no such folder, and not in its model cache either"
        remedy = "put it on a file system that all nodes share, or into the cache of every node"
        problems.append(Problem("model.path", folder, why, remedy))
    apart = [node.name for node, one in found.items() if node in writers and not one.has_token]
    if apart:
        why = f"node {', '.join(apart)}, which has policy ranks, sees another folder there than the driver"
        problems.append(Problem("run.dir", run_dir, why, "give a folder on a file system that all nodes share"))
    return problems


async def check_nodes(nodes: Mapping[tuple[str, int], Node], find: Finder, folder: Path, run_dir: Path | None) -> None:
    """Ask every node that will have an actor. Nothing is asked where all are on the driver's own node.

    Raises:
        ConfigError: a node lacks something.
    """
    distinct = list({node.node_id: node for node in nodes.values()}.values())
    if {node.node_id for node in distinct} == {ray.get_runtime_context().get_node_id()}:
        return
    token = run_dir / f".seen-by-all-nodes-{secrets.token_hex(8)}" if run_dir else None
    if token:
        token.touch()
    try:
        found = await asyncio.gather(
            *(_ask(node, find, str(folder), str(token) if token else None) for node in distinct)
        )
    finally:
        if token:
            token.unlink(missing_ok=True)
    writers = {node for (pool, _), node in nodes.items() if pool == "policy"}
    if problems := problems_of(dict(zip(distinct, found, strict=True)), folder, run_dir, writers):
        raise ConfigError(problems)


async def _ask(node: Node, find: Finder, folder: str, token: str | None) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
    task = ray.remote(look).options(num_cpus=0, scheduling_strategy=strategy)
    return await settle(task.remote(find, folder, token), f"node {node.name}", "what it finds on its disks", SECONDS)
