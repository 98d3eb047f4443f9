"""Holds the plan's resources: one placement group with a bundle per actor, each bound to the node chosen for it.

Ray keeps a bundle on one node, but picks the nodes itself: it may spread the ranks over more of them than they need,
and waits without a word where the bundles do not fit. So the nodes are chosen beforehand (config/bundles.py) from what
is free.
"""

import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from mel_ray.actors.handles import settle
from mel_ray.config.bundles import Node, assign, bundles_of
from mel_ray.config.plan import Plan, PoolPlan
from mel_ray.records.incident import PoolError
from mel_ray.records.problem import ConfigError

NODE_LABEL = "ray.io/node-id"
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

    def __init__(self, plan: Plan, patience: float = PATIENCE) -> None:
        """
        Raises:
            ConfigError: the plan does not fit the cluster, or others have held what it needs for `patience` seconds.
        """
        bundles = bundles_of(plan)
        assign(bundles, nodes_of_cluster(is_free=False))
        nodes = self._free_nodes(plan, time.monotonic() + patience)
        self._index = {member: index for index, bundle in enumerate(bundles) for member in bundle.members}
        self.nodes = {member: nodes[index] for member, index in self._index.items()}
        resources = [{"CPU": one.cpus} | ({"GPU": float(one.gpus)} if one.gpus else {}) for one in bundles]
        labels = [{NODE_LABEL: node.node_id} for node in nodes]
        self._group: PlacementGroup = placement_group(resources, strategy="PACK", bundle_label_selector=labels)

    @staticmethod
    def _free_nodes(plan: Plan, until: float) -> list[Node]:
        while True:
            try:
                return assign(bundles_of(plan), nodes_of_cluster(is_free=True))
            except ConfigError:
                if time.monotonic() > until:
                    raise
            time.sleep(0.2)

    async def ready(self, seconds: float) -> None:
        """Wait until Ray has reserved everything.

        Raises:
            PoolError: it could not within `seconds`.
        """
        try:
            await settle(self._group.ready(), "the cluster", "reservation", seconds)
        except PoolError as error:
            raise PoolError(f"the resources of the plan were not reserved: {error}") from error

    def options(self, plan: PoolPlan, number: int) -> dict[str, Any]:
        """For `.options(...)` of a pool's actor."""
        index = self._index[plan.name, number]
        strategy = PlacementGroupSchedulingStrategy(self._group, index, placement_group_capture_child_tasks=False)
        return resources_of(plan) | {"scheduling_strategy": strategy}

    def remove(self) -> None:
        remove_placement_group(self._group)


def resources_of(plan: PoolPlan) -> dict[str, Any]:
    return {"num_cpus": plan.cpus, "num_gpus": plan.gpus * plan.share}


def options_of(plan: PoolPlan, number: int, placement: Placement | None) -> dict[str, Any]:
    """Where a pool's actor runs; without a placement wherever Ray has room."""
    return resources_of(plan) if placement is None else placement.options(plan, number)
