"""Which node every actor of a plan runs on: pure arithmetic over what is free on each node.

An engine's GPUs lie on one node. The policy's ranks lie on as few nodes as possible, in the order of the nodes, because
they exchange the most. Everything else goes where most CPUs are free.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mel_ray.config.plan import Plan
from mel_ray.records.problem import ConfigError, Problem, counted

ROUNDING = 1e-6  # Ray counts resources in ten-thousandths
POLICY = "policy"


@dataclass(frozen=True, slots=True)
class Node:
    """What is free on a machine; `name` is as people call it, `node_id` as Ray does."""

    name: str
    cpus: float
    gpus: float
    node_id: str = ""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What must lie on one node: the actor of a pool by its number, or two that share a device."""

    members: tuple[tuple[str, int], ...]
    cpus: float
    gpus: int

    @property
    def has_rank(self) -> bool:
        return any(pool == POLICY for pool, _ in self.members)


def bundles_of(plan: Plan) -> list[Bundle]:
    """One bundle an actor, in the order of the pools; a rank and the engine on its GPU have one together."""
    whole = [pool for pool in plan.pools if pool.share == 1.0]
    shared = [pool for pool in plan.pools if pool.share < 1.0]
    found = [Bundle(((pool.name, number),), pool.cpus, pool.gpus) for pool in whole for number in range(pool.actors)]
    for number in range(max((pool.actors for pool in shared), default=0)):
        members = [pool for pool in shared if number < pool.actors]
        names = tuple((pool.name, number) for pool in members)
        found.append(Bundle(names, sum(pool.cpus for pool in members), max(pool.gpus for pool in members)))
    return found


@dataclass(slots=True)
class _Room:
    """What is still free on a node."""

    node: Node
    cpus: float
    gpus: float

    def count(self, bundle: Bundle) -> int:
        """How many bundles of this size it has room for."""
        by_gpus = self.gpus / bundle.gpus if bundle.gpus else float("inf")
        return int(min(by_gpus, self.cpus / bundle.cpus) + ROUNDING)

    def take(self, bundle: Bundle, count: int = 1) -> "_Room":
        return _Room(self.node, self.cpus - count * bundle.cpus, self.gpus - count * bundle.gpus)


def assign(bundles: Sequence[Bundle], nodes: Sequence[Node]) -> list[Node]:
    """The node of each bundle.

    Raises:
        ConfigError: they do not fit, with what is free; one sentence.
    """
    rooms = [_Room(node, node.cpus, node.gpus) for node in sorted(nodes, key=lambda node: (-node.gpus, -node.cpus))]
    ranks = [index for index, bundle in enumerate(bundles) if bundle.has_rank]
    wide = [index for index, bundle in enumerate(bundles) if bundle.gpus and not bundle.has_rank]
    others = [index for index in range(len(bundles)) if index not in {*ranks, *wide}]
    per_node = _ranks_per_node([bundles[i] for i in ranks], [bundles[i] for i in wide], rooms) if ranks else []
    found: dict[int, Node] = {}

    def put(index: int, room: int) -> None:
        rooms[room] = rooms[room].take(bundles[index])
        found[index] = rooms[room].node

    for index, room in zip(ranks, [room for room, count in enumerate(per_node) for _ in range(count)]):
        put(index, room)
    for index in (*wide, *others):
        fitting = [room for room, one in enumerate(rooms) if one.count(bundles[index])]
        if index in wide:
            fitting.sort(key=lambda room: rooms[room].gpus)
        else:
            fitting.sort(key=lambda room: -rooms[room].cpus)
        if fitting:
            put(index, fitting[0])
    if len(found) < len(bundles):
        raise ConfigError([_does_not_fit(bundles, nodes)])
    return [found[index] for index in range(len(bundles))]


def _ranks_per_node(ranks: Sequence[Bundle], engines: Sequence[Bundle], rooms: Sequence[_Room]) -> list[int]:
    """How many ranks on each node: on the fewest nodes with which all engines, which are equal, fit too; [] if they do
    not.

    `most[n, k]`: the most engines that fit beside `k` ranks on `n` of the nodes seen so far, and the ranks on each.
    """
    most: dict[tuple[int, int], tuple[int, list[int]]] = {(0, 0): (0, [])}
    for room in rooms:
        grown: dict[tuple[int, int], tuple[int, list[int]]] = {}
        here = [room.take(ranks[0], count) for count in range(min(len(ranks), room.count(ranks[0])) + 1)]
        fitting = [one.count(engines[0]) if engines else 0 for one in here]
        for (used, placed), (before, counts) in most.items():
            for count, more in enumerate(fitting[: len(ranks) - placed + 1]):
                key = used + bool(count), placed + count
                if key not in grown or (before + more, [*counts, count]) > grown[key]:
                    grown[key] = before + more, [*counts, count]
        most = grown
    for used in range(1, len(rooms) + 1):
        fit, counts = most.get((used, len(ranks)), (-1, []))
        if fit >= len(engines):
            return counts
    return []


def _does_not_fit(bundles: Sequence[Bundle], nodes: Sequence[Node]) -> Problem:
    gpus, cpus = sum(bundle.gpus for bundle in bundles), sum(bundle.cpus for bundle in bundles)
    free_gpus, free_cpus = sum(node.gpus for node in nodes), sum(node.cpus for node in nodes)
    free = ", ".join(f"{node.name}: {counted(int(node.gpus), 'GPU')}, {node.cpus:g} CPUs" for node in nodes)
    if gpus > free_gpus:
        why = f"the plan needs {counted(gpus, 'GPU')} and {int(free_gpus)} are free ({free})"
        remedy = "wait for others to end, choose a smaller cluster= preset or lower the numbers of engines and ranks"
        return Problem("cluster", None, why, remedy)
    if cpus > free_cpus + ROUNDING:
        why = f"the plan needs {cpus:g} CPUs and {free_cpus:g} are free ({free})"
        return Problem("cluster", None, why, "lower the numbers of actors or their cpus")
    sizes = Counter((bundle.gpus, bundle.cpus) for bundle in bundles if bundle.gpus)
    parts = [f"{count} x {counted(wide, 'GPU')} and {needed:g} CPUs" for (wide, needed), count in sizes.most_common()]
    why = f"each actor must lie on one node, and {', '.join(parts) or 'they'} do not fit what is free ({free})"
    remedy = "change cluster.rollout.tensor_parallel, or lower the numbers of engines and ranks or their cpus"
    return Problem("cluster", None, why, remedy)
