"""What every node must have, asked before any actor starts: the model and the run folder on its disks, and memory
enough on its devices and for its actors."""

import asyncio
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mel_ray.actors.handles import settle
from mel_ray.config.bundles import Node
from mel_ray.config.plan import Machine, this_machine
from mel_ray.records.problem import ConfigError, Problem

SECONDS = 120.0
LARGE = ("rollout", "experience-engine", "policy")  # pools whose actors hold a model


@dataclass(frozen=True, slots=True)
class Found:
    """What a node found."""

    has_model: bool
    has_token: bool
    machine: Machine | None = None


Judge = Callable[[Machine], Sequence[Problem]]  # what a machine lacks for its part of the plan
Finder = Callable[[Path], Path]  # the model's folder on the node it is called on; a ConfigError where it has none


def look(find: Finder, folder: str, token: str | None) -> Found:
    """On the node it runs on: is the model there, and the file that the driver has just written?"""
    try:
        find(Path(folder))
        has_model = True
    except ConfigError:
        has_model = False
    return Found(has_model, token is None or Path(token).exists(), this_machine())


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


def lacking_memory(found: Mapping[Node, Found], judge: Judge) -> list[Problem]:
    """Each problem once, with the first node that has it; nodes are often alike."""
    problems: dict[str, Problem] = {}
    for node, one in found.items():
        for problem in judge(one.machine) if one.machine else ():
            named = replace(problem, why=f"on node {node.name} {problem.why}")
            problems.setdefault(str(problem), named)
    return list(problems.values())


async def check_nodes(
    nodes: Mapping[tuple[str, int], Node], find: Finder, folder: Path, run_dir: Path | None,
    judge: Judge = lambda machine: (),
) -> None:  # fmt: skip
    """Ask every node that will have an actor. Of the driver's own, alone, only the memory is asked.

    Raises:
        ConfigError: a node lacks something.
    """
    distinct = list({node.node_id: node for node in nodes.values()}.values())
    workers = {node.node_id for (pool, _), node in nodes.items() if pool in LARGE}
    if {node.node_id for node in distinct} == {ray.get_runtime_context().get_node_id()}:
        if problems := judge(this_machine()):
            raise ConfigError(list(problems))
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
    by_node = dict(zip(distinct, found, strict=True))
    with_actors = {node: one for node, one in by_node.items() if node.node_id in workers}
    if problems := problems_of(by_node, folder, run_dir, writers) + lacking_memory(with_actors, judge):
        raise ConfigError(problems)


async def _ask(node: Node, find: Finder, folder: str, token: str | None) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
    task = ray.remote(look).options(num_cpus=0, scheduling_strategy=strategy)
    return await settle(task.remote(find, folder, token), f"node {node.name}", "what it finds on its disks", SECONDS)
