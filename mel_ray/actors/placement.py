"""Holds the plan's resources: one placement group with a bundle per actor, each bound to the node chosen for it; and
one of its own for an actor whose node is gone.

Ray keeps a bundle on one node, but picks the nodes itself: it may spread the ranks over more of them than they need,
and waits without a word where the bundles do not fit. So the nodes are chosen beforehand (config/bundles.py) from what
is free.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from mel_ray.actors.handles import settle
from mel_ray.config.bundles import Bundle, Node, assign, bundles_of
from mel_ray.config.plan import Plan, PoolPlan
from mel_ray.records.incident import NoRoom, PoolError
from mel_ray.records.problem import ConfigError, counted

NODE_LABEL = "ray.io/node-id"
Member = tuple[str, int]  # a pool and the number of its actor
ELASTIC = "rollout"  # the pool that may begin with fewer actors than planned
MOVING = 5.0  # seconds to reserve what one actor needs
LOOK = 2.0  # seconds between two looks at the nodes
PATIENCE = 15.0  # seconds in which actors of a run before this one may still be ending


def nodes_of_cluster(is_free: bool) -> list[Node]:
    """The living nodes with all they have, or with what is free of it."""
    from ray._private.state import available_resources_per_node  # Ray offers no public call for one node

    free: Mapping[str, Mapping[str, float]] = available_resources_per_node() if is_free else {}
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            resources = free.get(node["NodeID"], {}) if is_free else node["Resources"]
            name = node["NodeManagerHostname"] or node["NodeManagerAddress"]
            found.append(Node(name, resources.get("CPU", 0.0), resources.get("GPU", 0.0), node["NodeID"]))
    return found


class Placement:
    """The node of every actor of a plan; `options` is what an actor is started with."""

    def __init__(self, plan: Plan, patience: float = PATIENCE, fewest: int | None = None) -> None:
        """`fewest`: rollout engines that must have a node at once; the others may get one later. By default all.

        Raises:
            ConfigError: the plan does not fit the cluster, or others have held what it needs for `patience` seconds.
        """
        bundles = bundles_of(plan)
        if fewest is not None:
            bundles = _with_room(bundles, fewest)
        assign(bundles, nodes_of_cluster(is_free=False))
        nodes = self._free_nodes(bundles, time.monotonic() + patience)
        self.nodes: dict[Member, Node] = {}
        self._places: dict[Member, tuple[PlacementGroup, int]] = {}
        self._first, self._is_reserved = _reservation(bundles, nodes), False
        self._groups = [self._first]
        self._note(self._first, bundles, nodes)

    def _note(self, group: PlacementGroup, bundles: Sequence[Bundle], nodes: Sequence[Node]) -> None:
        for index, (bundle, node) in enumerate(zip(bundles, nodes, strict=True)):
            for member in bundle.members:
                self.nodes[member], self._places[member] = node, (group, index)

    @staticmethod
    def _free_nodes(bundles: Sequence[Bundle], until: float) -> list[Node]:
        while True:
            try:
                return assign(bundles, nodes_of_cluster(is_free=True))
            except ConfigError:
                if time.monotonic() > until:
                    raise
            time.sleep(0.2)

    async def ready(self, seconds: float) -> None:
        """Wait until Ray has reserved everything.

        Raises:
            PoolError: it could not within `seconds`.
        """
        reserved = asyncio.ensure_future(settle(self._first.ready(), "the cluster", "reservation", seconds))
        try:
            while not reserved.done():
                await asyncio.wait([reserved], timeout=LOOK)
                alive = {one["NodeID"] for one in ray.nodes() if one["Alive"]}
                gone = sorted({node.name for node in self.nodes.values() if node.node_id not in alive})
                if gone and not reserved.done():
                    raise PoolError(f"node {', '.join(gone)} is gone, which was to have actors of this run")
            await reserved
            self._is_reserved = True
        except PoolError as error:
            raise PoolError(f"the resources of the plan were not reserved: {error}") from error
        finally:
            reserved.cancel()

    def options(self, plan: PoolPlan, number: int) -> dict[str, Any]:
        """For `.options(...)` of a pool's actor. Where its node is gone, another one is chosen.

        Raises:
            NoRoom: none has room for it.
        """
        if not self.has_node(plan, number):
            self._move(plan, number)
        group, index = self._places[plan.name, number]
        strategy = PlacementGroupSchedulingStrategy(group, index, placement_group_capture_child_tasks=False)
        return resources_of(plan) | {"scheduling_strategy": strategy}

    def has_node(self, plan: PoolPlan, number: int) -> bool:
        """Whether the actor's node is there."""
        node = self.nodes.get((plan.name, number))
        return node is not None and any(one["Alive"] and one["NodeID"] == node.node_id for one in ray.nodes())

    def _move(self, plan: PoolPlan, number: int) -> None:
        """What is free is only known for sure once it has been reserved: Ray's figures lag behind."""
        member = plan.name, number
        bundle = Bundle((member,), plan.cpus, plan.gpus)
        needs = f"{plan.cpus:g} CPU{'s' * (plan.cpus != 1)}" + (
            f" and {counted(plan.gpus, 'GPU')}" if plan.gpus else ""
        )
        gone = f"Its node {self.nodes[member].name} is gone, and no other" if member in self.nodes else "No node"
        full = NoRoom(f"{gone} has {needs} free")
        if not self._is_reserved:
            raise full  # the plan's own reservation comes first
        try:
            nodes = assign([bundle], nodes_of_cluster(is_free=True))
        except ConfigError as error:
            raise full from error
        group = _reservation([bundle], nodes)
        if not group.wait(timeout_seconds=MOVING):
            remove_placement_group(group)
            raise full
        self._groups.append(group)
        self._note(group, [bundle], nodes)

    def remove(self) -> None:
        for group in self._groups:
            remove_placement_group(group)


def _reservation(bundles: Sequence[Bundle], nodes: Sequence[Node]) -> PlacementGroup:
    """Asked for, not granted yet."""
    resources = [{"CPU": one.cpus} | ({"GPU": float(one.gpus)} if one.gpus else {}) for one in bundles]
    labels = [{NODE_LABEL: node.node_id} for node in nodes]
    return placement_group(resources, strategy="PACK", bundle_label_selector=labels)


def _with_room(bundles: Sequence[Bundle], fewest: int) -> list[Bundle]:
    """Those that fit what is free now: rollout engines are left out from the last on, down to the fewest."""
    free, kept = nodes_of_cluster(is_free=True), list(bundles)
    optional = [one for one in bundles for pool, number in one.members if pool == ELASTIC and number >= fewest]
    while optional:
        try:
            assign(kept, free)
            break
        except ConfigError:
            kept.remove(optional.pop())
    return kept


def resources_of(plan: PoolPlan) -> dict[str, Any]:
    return {"num_cpus": plan.cpus, "num_gpus": plan.gpus * plan.share}


def options_of(plan: PoolPlan, number: int, placement: Placement | None) -> dict[str, Any]:
    """Where a pool's actor runs; without a placement wherever Ray has room."""
    return resources_of(plan) if placement is None else placement.options(plan, number)


def has_node(plan: PoolPlan, number: int, placement: Placement | None) -> bool:
    """Whether the node of a pool's actor is there."""
    return placement is None or placement.has_node(plan, number)
